"""One definition per table (tables/) and one module per figure (plots/)."""
