// Command regkeeper keeps CI runners and build hosts logged in to a container
// registry.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/regkeeper/regkeeper/cli"
)

// leastGarbage is how much garbage may come to what is in use before it is
// collected, in percent: half of Go's. regkeeper waits for others most of the time,
// and shares its machine with builds, so that memory is dearer to it than time.
const leastGarbage = 50

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(leastGarbage)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	streams := cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}
	code := cli.Run(ctx, streams, hangup, os.Args[1:]...)
	stop()
	os.Exit(code)
}
