"""One definition per table (tables/), one module per figure (plots/), and the looks of methods (palette.toml)."""
