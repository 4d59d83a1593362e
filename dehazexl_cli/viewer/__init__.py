"""A raster of any size as tiles at every zoom, and the server of a page that lays several over each other."""
