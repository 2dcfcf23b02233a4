// Command docker-credential-regkeeper tells Docker's clients the logins that
// regkeeper keeps. It is a program of its own, and not a command of regkeeper's,
// because clients run it for each pull: it links nothing that a question does not
// need.
package main

import (
	"os"
	"runtime/debug"
	"time"

	"github.com/regkeeper/regkeeper/helper"
)

func main() {
	run := helper.Run{In: os.Stdin, Out: os.Stdout, Getenv: os.Getenv, Now: time.Now, Version: version()}
	os.Exit(run.Main(os.Args[1:]...))
}

// version is what the build recorded.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return "devel"
}
