package secrets

import (
	"bytes"
	"context"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/kube"
)

// Watch tells of namespaces that came or left the choice, of Secrets that
// others changed, and of what has not followed.
func (t *Target) Watch(ctx context.Context, changed func(...credential.Place)) error {
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
	return group.Wait()
}

// watching tells of what matters. Until all mirrors are in step it keeps still: a
// look at everything follows then.
type watching struct {
	target  *Target
	changed func(...credential.Place)
	begun   atomic.Int32
	inStep  atomic.Bool
}

func run[T any](ctx context.Context, group *errgroup.Group, w *watching, mirror *kube.Mirror[T], tell func(before, after *kube.Object[T])) {
	w.begun.Add(1)
	group.Go(func() error {
		return mirror.Run(ctx, func(before, after *kube.Object[T]) {
			switch {
			case before == nil && after == nil:
				w.known()
			case w.inStep.Load():
				tell(before, after)
			}
		})
	})
}

// known notes that one more is in step.
func (w *watching) known() {
	if w.begun.Add(-1) == 0 {
		w.inStep.Store(true)
		w.changed()
	}
}

func (w *watching) namespace(before, after *kube.Object[struct{}]) {
	was, is := w.target.chooses(before), w.target.chooses(after)
	switch {
	case is && !was:
		w.changed(credential.Place(after.Name))
	case was && !is:
		w.changed()
	}
}

func (w *watching) secret(before, after *kube.Object[secret]) {
	if before != nil && after != nil && bytes.Equal(before.Value.config, after.Value.config) &&
		before.Labels[kube.Owner] == after.Labels[kube.Owner] && before.Labels[kube.ManagedBy] == after.Labels[kube.ManagedBy] &&
		w.target.given(before) == w.target.given(after) {
		return
	}
	if after == nil {
		after = before
	}
	w.tell(after.Namespace)
}

// tell tells of a namespace, if it is chosen.
func (w *watching) tell(namespace string) {
	// The mirrors are in step: this takes no request, and cannot fail.
	if chosen, err := w.target.isChosen(context.Background(), namespace); err == nil && chosen {
		w.changed(credential.Place(namespace))
	}
}

func (w *watching) account(before, after *kube.Object[account]) {
	if after == nil || before != nil && before.Excluded() == after.Excluded() && slices.Equal(before.Value.pullSecrets, after.Value.pullSecrets) {
		return
	}
	w.tell(after.Namespace)
}

func (w *watching) workload(before, after *kube.Object[workload]) {
	switch {
	case after == nil:
	case before != nil && before.Value.rolling && !after.Value.rolling:
		// Others, elsewhere, may have waited for it.
		w.changed()
	case before == nil, before.Annotations[kube.Login] != after.Annotations[kube.Login],
		before.Excluded() != after.Excluded(), before.Value.paused != after.Value.paused:
		w.tell(after.Namespace)
	}
}

func (w *watching) pod(before, after *kube.Object[pod]) {
	if after != nil && len(after.Value.images) > 0 &&
		(before == nil || before.Excluded() != after.Excluded() || !slices.Equal(before.Value.images, after.Value.images)) {
		w.tell(after.Namespace)
	}
}
