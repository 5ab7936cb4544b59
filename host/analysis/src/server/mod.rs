//! What the server says of itself: its metrics pages, read while load ran, brought to the same few
//! quantities whichever engine it is.

mod page;
mod table;
mod view;

pub use page::{Series, parse, parse_series};
pub use table::{QUANTITIES, Quantity, is_known, is_of_engine};
pub use view::{Beside, Gauge, Histogram, ServerView, Total, view};

/// What one reading of a metrics page said.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Nanoseconds since the run's start.
    pub at: u64,
    /// The series of known names.
    pub series: Vec<Series>,
}

impl Snapshot {
    /// Whether the page that a series comes from was read.
    fn has_page_of(&self, series: &Series) -> bool {
        self.series.iter().any(|other| other.label(PAGE) == series.label(PAGE))
    }
}

/// The label that says which page a series comes from.
pub const PAGE: &str = "page";
