"""The queue in front of a model: items of all requests in flight share its runs, and every waiter is settled.

`policy` decides which items run together and is pure; `batcher` owns the queue on the event loop; `lane` owns one
thread per lane. Knows no backend, no picture and no HTTP: a lane is any callable from items to results.
"""
