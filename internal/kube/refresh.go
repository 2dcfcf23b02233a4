package kube

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Refresh asks the cluster what there is, and has readers see it also where the
// watch has not told yet: it may lag, or hang.
func (m *Mirror[T]) Refresh(ctx context.Context) error {
	m.mu.Lock()
	inStep := m.inStep()
	m.mu.Unlock()
	if !inStep {
		_, err := m.List(ctx)
		return err
	}
	before, _ := m.mirrored(metav1.NamespaceAll)
	found := map[types.NamespacedName]*Object[T]{}
	for _, namespace := range m.namespaces() {
		objects, err := m.ask(ctx, namespace, m.selection)
		if err != nil {
			return err
		}
		for _, o := range objects {
			found[o.Key()] = o
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for key, o := range found {
		if known := m.known(key); known == nil || newer(o, known) {
			m.wrote(o, &own[T]{object: o, looked: true})
		}
	}
	for _, o := range before {
		// What was made anew since is told by its own coming.
		if known := m.known(o.Key()); found[o.Key()] == nil && known != nil && known.UID == o.UID {
			m.wrote(o, &own[T]{deleted: o.UID, looked: true})
		}
	}
	return nil
}
