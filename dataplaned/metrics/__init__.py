"""What the daemon counts and times, and how it is asked: Prometheus's text over HTTP."""

from .measures import (
    CallMeasures as CallMeasures,
    Histogram as Histogram,
    StoreMeasures as StoreMeasures,
    store_measures as store_measures,
)
