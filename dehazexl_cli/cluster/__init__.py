"""One scene by the workers of a Dask cluster: what they are told, what they do, who leads them."""
