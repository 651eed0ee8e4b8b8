"""Who is it: collections of people, their faces, and the search among them. Knows vectors, not models or HTTP."""
