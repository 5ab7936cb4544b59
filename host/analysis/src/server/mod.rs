//! What the server says of itself: its metrics pages, read while load ran, brought to the same few
//! quantities whichever engine it is.

mod page;
mod table;
mod view;

pub use page::{Series, parse, parse_series};
pub use table::{QUANTITIES, Quantity, is_known};
pub use view::{Gauge, Histogram, ServerView, Total, view};

/// What one reading of a metrics page said.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Nanoseconds since the run's start.
    pub at: u64,
    /// The series of known names.
    pub series: Vec<Series>,
}
