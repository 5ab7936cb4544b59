//! Backend: a server process on this machine.
