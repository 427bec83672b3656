"""What keeps a record from showing in what leaves a client: sampling, clipping, noise, and what they add up to."""
