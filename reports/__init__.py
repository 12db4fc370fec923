"""One definition per table (tables/), one module per figure (plots/), and the styles of methods (palette.toml)."""
