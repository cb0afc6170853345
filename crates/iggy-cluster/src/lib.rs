//! A clustering plugin for Apache Iggy.
