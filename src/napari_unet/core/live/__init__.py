"""It learns while you paint: training and looking in turns, on all corrections so far.

::

    Painted, Looking, Busy, Forget, GoBack ─▶ Inbox ─▶ living() ─▶ LiveProgress with what is Seen
                                                        │
                          Learner: a copy of the network in training, strokes, held-out cells
                          Viewer: what is in view by the newest weights

`living` is the work that a window runs on a thread; `LiveSession` is the same for scripts.
"""
