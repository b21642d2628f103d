"""The account pages that every site has."""
