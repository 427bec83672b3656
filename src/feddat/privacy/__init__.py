"""What keeps a client's data from those who see its updates: noise on records, and sums that nobody can take apart."""
