"""What keeps a client's data from those who see its updates: sums that nobody can take apart."""
