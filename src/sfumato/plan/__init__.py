"""Planning on paper: what a training run and its model need, before anything is rented."""
