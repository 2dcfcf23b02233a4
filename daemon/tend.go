package daemon

import (
	"context"
	"errors"
	"time"

	"k8s.io/client-go/util/workqueue"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/state"
)

// spot is a place that is to be tended.
type spot struct {
	target string
	place  credential.Place
}

// queue has the places of one setup that are to be tended: each once, however
// often it is asked for, and never twice at the same time.
type queue = workqueue.TypedDelayingInterface[spot]

const (
	// tendAtOnce bounds how many places are tended at the same time: enough
	// that some that hang do not hold up the others.
	tendAtOnce = 64
	// flushAfter is how long what was tended may stay unsaved.
	flushAfter = time.Second
)

// tend works off the queue until it shuts down.
func (d *Daemon) tend(ctx context.Context, s *setup) {
	slots := make(chan struct{}, tendAtOnce)
	flush := make(chan struct{}, 1)
	flushed := make(chan struct{})
	go func() {
		defer close(flushed)
		d.flush(ctx, s, flush)
	}()
	for {
		next, done := s.queue.Get()
		if done {
			break
		}
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			defer s.queue.Done(next)
			d.tendOne(ctx, s, next)
			notify(flush)
		}()
	}
	for range tendAtOnce {
		slots <- struct{}{}
	}
	<-flushed
}

func (d *Daemon) tendOne(ctx context.Context, s *setup, next spot) {
	d.passing.RLock()
	defer d.passing.RUnlock()
	if ctx.Err() != nil {
		return
	}
	// The queue keeps the earlier of two times; the later one counts.
	if _, told := s.told.LoadAndDelete(next); !told {
		if at := s.Keeper.RetryAt(next.target, next.place); at.IsZero() {
			return
		} else if time.Until(at) > 0 {
			s.queue.AddAfter(next, time.Until(at))
			return
		}
	}
	err := s.Keeper.Tend(ctx, next.target, next.place)
	switch {
	case ctx.Err() != nil:
		return
	case errors.Is(err, state.ErrChanged):
		notify(d.wake)
		return
	case err != nil:
		d.config.Log.Error("place not tended", "target", next.target, "place", next.place, "error", err)
		s.told.Store(next, true)
		s.queue.AddAfter(next, watchAgain)
		return
	}
	if at := s.Keeper.RetryAt(next.target, next.place); !at.IsZero() {
		s.queue.AddAfter(next, time.Until(at))
	}
	row, known := s.Keeper.Known(next.target, next.place)
	s.health.place(next, row, known)
}

// flush saves what was tended, a burst at a time, and at the end.
func (d *Daemon) flush(ctx context.Context, s *setup, tended <-chan struct{}) {
	for {
		select {
		case <-ctx.Done():
			return // the next pass, or the next run, looks at everything
		case <-tended:
		}
		burst := time.NewTimer(flushAfter)
		select {
		case <-ctx.Done():
		case <-burst.C:
		}
		burst.Stop()
		if err := s.Keeper.Flush(ctx); err != nil {
			d.config.Log.Error("state not saved", "error", err)
		}
	}
}

// requeue has what a pass could not serve tended again.
func (s *setup) requeue() {
	for _, retry := range s.Keeper.Retries() {
		s.queue.AddAfter(spot{retry.Target, retry.Place}, time.Until(retry.At))
	}
}
