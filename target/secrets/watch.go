package secrets

import (
	"bytes"
	"context"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/kube"
)

// Watch tells of namespaces that came or left the choice, of Secrets that
// others changed, and of what has not followed.
func (t *Target) Watch(ctx context.Context, changed func(...credential.Place)) error {
	patience := t.patience
	if patience == 0 {
		patience = watchPatience
	}
	w := &watching{target: t, changed: changed}
	// Nothing is in step before all have begun.
	w.begun.Add(1)
	t.watching.Store(w)
	defer t.watching.CompareAndSwap(w, nil)
	group, ctx := errgroup.WithContext(ctx)
	for _, mirror := range t.namespaces {
		run(ctx, group, w, mirror, w.namespace)
	}
	run(ctx, group, w, t.secrets, w.secret)
	for _, mirror := range t.accounts {
		run(ctx, group, w, mirror, w.account)
	}
	for _, workloads := range t.workloads {
		run(ctx, group, w, workloads.mirror, w.workload)
	}
	if t.pods != nil {
		run(ctx, group, w, t.pods, w.pod)
	}
	w.known()
	// A mirror that may not be had, for want of a right, is not waited for: what
	// is asked of it is asked of the cluster then.
	late := time.AfterFunc(patience, func() {
		if !w.inStep.Load() {
			w.begin()
		}
	})
	defer late.Stop()
	return group.Wait()
}

// watchPatience is how long the mirrors are waited for.
const watchPatience = 30 * time.Second

// watching tells of what matters. Until all mirrors are in step it keeps still: a
// look at everything follows then.
type watching struct {
	target  *Target
	changed func(...credential.Place)
	begun   atomic.Int32
	inStep  atomic.Bool
}

func run[T any](ctx context.Context, group *errgroup.Group, w *watching, mirror *kube.Mirror[T], tell func(ctx context.Context, before, after *kube.Object[T])) {
	w.begun.Add(1)
	group.Go(func() error {
		return mirror.Run(ctx, func(before, after *kube.Object[T]) {
			switch {
			case before == nil && after == nil:
				w.known()
			case w.inStep.Load():
				tell(ctx, before, after)
			}
		})
	})
}

// known notes that one more is in step.
func (w *watching) known() {
	if w.begun.Add(-1) == 0 {
		w.begin()
	}
}

// begin tells of what changes from here on, and of what has.
func (w *watching) begin() {
	w.inStep.Store(true)
	w.changed()
}

func (w *watching) namespace(_ context.Context, before, after *kube.Object[struct{}]) {
	was, is := w.target.chooses(before), w.target.chooses(after)
	switch {
	case is && !was:
		w.changed(credential.Place(after.Name))
	case was && !is:
		w.changed()
	}
}

func (w *watching) secret(ctx context.Context, before, after *kube.Object[secret]) {
	if before != nil && after != nil && bytes.Equal(before.Value.config, after.Value.config) &&
		before.Labels[kube.Owner] == after.Labels[kube.Owner] && before.Labels[kube.ManagedBy] == after.Labels[kube.ManagedBy] &&
		w.target.given(before) == w.target.given(after) {
		return
	}
	if after == nil {
		after = before
	}
	w.tell(ctx, after.Namespace)
}

// tell tells of a namespace, unless it is known not to be chosen. Where the
// namespaces are not mirrored the cluster is asked.
func (w *watching) tell(ctx context.Context, namespace string) {
	if chosen, err := w.target.isChosen(ctx, namespace); err != nil || chosen {
		w.changed(credential.Place(namespace))
	}
}

func (w *watching) account(ctx context.Context, before, after *kube.Object[account]) {
	if after == nil || before != nil && before.Excluded() == after.Excluded() && slices.Equal(before.Value.pullSecrets, after.Value.pullSecrets) {
		return
	}
	w.tell(ctx, after.Namespace)
}

func (w *watching) workload(ctx context.Context, before, after *kube.Object[workload]) {
	switch {
	case after == nil:
	case before != nil && before.Value.rolling && !after.Value.rolling:
		// Others, elsewhere, may have waited for it.
		w.changed()
	case before == nil, before.Annotations[kube.Login] != after.Annotations[kube.Login],
		before.Excluded() != after.Excluded(), before.Value.paused != after.Value.paused:
		w.tell(ctx, after.Namespace)
	}
}

func (w *watching) pod(ctx context.Context, before, after *kube.Object[pod]) {
	if after != nil && len(after.Value.images) > 0 &&
		(before == nil || before.Excluded() != after.Excluded() || !slices.Equal(before.Value.images, after.Value.images)) {
		w.tell(ctx, after.Namespace)
	}
}
