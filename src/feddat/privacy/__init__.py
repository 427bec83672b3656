"""Protection of clients' data from those who see updates: noise with a privacy budget, and secure aggregation."""
