"""What happens to a picture, in order: detect, align, recognize. Knows no HTTP, no file and no device."""
