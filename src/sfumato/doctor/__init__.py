"""Whether a machine, its software and this package are fit for work, and what to do where they are not."""
