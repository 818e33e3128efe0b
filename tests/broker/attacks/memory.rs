//! Floods of memory, in a small cgroup.
