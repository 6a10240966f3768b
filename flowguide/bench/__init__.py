"""Real video in, real video out: flowguide and its peers by turns on this machine."""
