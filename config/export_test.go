package config

// Document is the document as it is written, for the test that holds it and
// the schema together.
type Document = document
