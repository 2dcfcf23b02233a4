//go:build race

package cli_test

// A program built with the race detector takes half a second to start, most of
// it in the initialisation of a library. With it, of the scripts only those in
// which a daemon, its reload and its control socket work run; the other
// commands run in this process, in the other tests.
func init() { raceScripts = []string{"up_config", "rotate"} }
