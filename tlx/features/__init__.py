"""What came out of a network: votes over crops and the scores made of them."""
