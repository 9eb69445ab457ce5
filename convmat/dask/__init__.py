"""The same functions on Dask arrays: lazily, chunk by chunk, on threads, processes or a cluster.

    import dask.array as da
    from convmat import dask as cd

    y = cd.convolve(da.from_zarr("frames.zarr"), filters, padding="same")

Arrays are (N, *spatial, C), chunked along N and any spatial axis. A chunk of a result is one task; it gets
the chunk that it sees most of, and of others no more than its halo. Needs `pip install 'convmat[dask]'`.
"""

try:
    from convmat.dask.arrays import convolve, convolve_transpose, fold, unroll
    from convmat.dask.judged import verify
except ModuleNotFoundError as error:
    error.add_note("pip install 'convmat[dask]' brings it")
    raise

__all__ = ["convolve", "convolve_transpose", "fold", "unroll", "verify"]
