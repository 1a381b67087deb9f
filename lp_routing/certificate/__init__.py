"""The proof: what tokens would take at given prices, what is taken, and the bound."""
