"""One module per figure; each has a function ``draw``, and its file name is the figure's name."""
