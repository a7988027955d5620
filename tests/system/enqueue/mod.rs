//! Every way to enqueue, as docs/guides/enqueue.md shows it: each example is run as it stands.

mod embedded;
mod guide;
mod mistakes;
mod producer;
mod snippets;
