package helper

// ParseNote reads the text of a note.
var ParseNote = parseNote
