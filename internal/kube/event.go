package kube

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	typedcore "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
)

// The reasons of Events, as `kubectl describe` shows them.
const (
	Created          = "LoginCreated"
	Updated          = "LoginUpdated"
	Adopted          = "LoginAdopted"
	Removed          = "LoginRemoved"
	Attached         = "LoginAttached"
	Delivered        = "LoginDelivered"
	NotDelivered     = "LoginNotDelivered"
	RestartTriggered = "RolloutRestartTriggered"
	Evicted          = "EvictedForLogin"
)

// Recorder makes Events on objects of a cluster. It never holds up who tells
// it: what it cannot keep up with is dropped, and what repeats is counted up in
// one Event, as of Kubernetes' own components. The nil Recorder makes none.
type Recorder struct {
	core   typedcore.EventsGetter
	log    *slog.Logger
	events chan *corev1.Event
	// dropped counts Events that found no room.
	dropped atomic.Int64
	// closing has no more Events taken, and those that wait sent.
	closing chan struct{}
	close   sync.Once
	worker  sync.WaitGroup
	cancel  context.CancelFunc
}

const (
	// eventsWaiting bounds what is kept until the cluster has it.
	eventsWaiting = 1000
	// eventsKnown bounds how many Events are known for being counted up.
	eventsKnown = 512
	// eventPatience bounds one request, and how long Close waits for all.
	eventPatience = 5 * time.Second
)

// NewRecorder makes a recorder, which works until Close.
func NewRecorder(core typedcore.EventsGetter, log *slog.Logger) *Recorder {
	ctx, cancel := context.WithCancel(context.Background())
	r := &Recorder{core: core, log: log, events: make(chan *corev1.Event, eventsWaiting), closing: make(chan struct{}), cancel: cancel}
	r.worker.Go(func() { r.work(ctx) })
	return r
}

func (r *Recorder) work(ctx context.Context) {
	correlator := record.NewEventCorrelatorWithOptions(record.CorrelatorOptions{LRUCacheSize: eventsKnown, Clock: clock.RealClock{}})
	for {
		if ctx.Err() != nil {
			r.log.Warn("events dropped: the cluster does not take them", "count", len(r.events))
			return
		}
		var event *corev1.Event
		select {
		case event = <-r.events:
		case <-r.closing:
			select {
			case event = <-r.events:
			default:
				return
			}
		}
		if dropped := r.dropped.Swap(0); dropped > 0 {
			r.log.Warn("events dropped: too many waited", "count", dropped)
		}
		if err := r.send(ctx, correlator, event); err != nil {
			r.log.Warn("event not made", "reason", event.Reason, "object", event.InvolvedObject.Name, "error", err)
		}
	}
}

func (r *Recorder) send(ctx context.Context, correlator *record.EventCorrelator, event *corev1.Event) error {
	result, err := correlator.EventCorrelate(event)
	if err != nil || result.Skip {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, eventPatience)
	defer cancel()
	events := r.core.Events(event.Namespace)
	if result.Event.Count > 1 {
		sent, err := events.Patch(ctx, result.Event.Name, types.StrategicMergePatchType, result.Patch, metav1.PatchOptions{FieldManager: Manager})
		if err == nil {
			correlator.UpdateState(sent)
		}
		if !apierrors.IsNotFound(err) {
			return err
		}
		// The Event has ended its life at the cluster meanwhile.
		result.Event.ResourceVersion = ""
	}
	sent, err := events.Create(ctx, result.Event, metav1.CreateOptions{FieldManager: Manager})
	if err == nil {
		correlator.UpdateState(sent)
	}
	return err
}

// Event makes one. A text never holds a secret.
func (r *Recorder) Event(regarding corev1.ObjectReference, warning bool, reason, format string, args ...any) {
	if r == nil {
		return
	}
	kind := corev1.EventTypeNormal
	if warning {
		kind = corev1.EventTypeWarning
	}
	now := metav1.Now()
	namespace := regarding.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	event := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Name: fmt.Sprintf("%s.%x", regarding.Name, now.UnixNano()), Namespace: namespace},
		InvolvedObject: regarding, Type: kind, Reason: reason, Message: fmt.Sprintf(format, args...),
		Source: corev1.EventSource{Component: Manager}, ReportingController: Manager,
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}
	select {
	case r.events <- event:
	default:
		r.dropped.Add(1)
	}
}

// Close waits a short while for the cluster to have what it was told.
func (r *Recorder) Close() {
	if r == nil {
		return
	}
	r.close.Do(func() {
		close(r.closing)
		late := time.AfterFunc(eventPatience, r.cancel)
		r.worker.Wait()
		late.Stop()
		r.cancel()
	})
}
