//! Tests that need a real part: a real server, real processes, a browser.
