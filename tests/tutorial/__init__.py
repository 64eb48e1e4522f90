"""The first hour with the Python API: read these modules in order, each a few minutes.

1. submit a recording and wait for its text
2. many recordings at once
3. follow every outcome, from a position
4. cache hits
5. uploads
6. errors, dead letters and replay
7. the blocking client
8. test your own service without Redis

All but the last talk to a real Redis and a real worker with the embedded model, which knows spoken
digits in five languages (`conftest.py`).
"""
