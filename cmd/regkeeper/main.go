// Command regkeeper keeps CI runners and build hosts logged in to a container
// registry.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/regkeeper/regkeeper/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	streams := cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}
	code := cli.Run(ctx, streams, hangup, os.Args[1:]...)
	stop()
	os.Exit(code)
}
