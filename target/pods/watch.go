package pods

import (
	"context"
	"sync/atomic"

	"github.com/regkeeper/regkeeper/credential"
)

// Watch tells of containers that began to run, again or for the first time,
// and of pods that are let in: with their places. It tells once, with none,
// when all pods are known, and again when one goes.
//
//	before    after     told
//	gone      waits     nothing
//	gone      runs      the place
//	waits     runs      the place, be it for the first time or again
//	runs      runs      the place, if it is another run; nothing otherwise
//	runs      waits     nothing: it is told of when it runs again
//	waits     gone      all
//	runs      gone      all
//
// A pod is gone if there is none, it ends, it has ended, or it is left out.
func (t *Target) Watch(ctx context.Context, changed func(...credential.Place)) error {
	t.watching.Store(true)
	defer t.watching.Store(false)
	var known atomic.Bool
	return t.mirror.Run(ctx, func(before, after *pod) {
		switch {
		case before == nil && after == nil:
			known.Store(true)
			changed()
		case gone(after):
			if before != nil {
				t.forget(place(before))
			}
			if !gone(before) && known.Load() {
				changed()
			}
		case ready(after) && (!ready(before) || run(before) != run(after)):
			t.forget(place(after))
			// What comes while not all is known is part of the whole.
			if known.Load() {
				changed(place(after))
			}
		}
	})
}

// run tells one run of a container from another.
func run(p *pod) string { return string(place(p)) + " " + string(p.UID) + " " + p.Value.id }
