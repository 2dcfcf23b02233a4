package rollout

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// status is how far a rollout is, by the rules of `kubectl rollout status`
// (kubectl, pkg/polymorphichelpers/rollout_status.go).
type status struct {
	done bool
	// seen says that the controller has seen the last change.
	seen bool
	text string
	// ails says what is wrong with the workload itself. It may be of the rollout
	// before: the controller takes a moment to take it back.
	ails string
}

func deploymentStatus(d *appsv1.Deployment) status {
	s := d.Status
	if d.Generation > s.ObservedGeneration {
		return status{text: "waiting for the cluster to see the change"}
	}
	now := status{seen: true}
	for _, c := range s.Conditions {
		switch {
		case c.Type == appsv1.DeploymentProgressing && c.Reason == "ProgressDeadlineExceeded":
			now.ails = "its progress deadline has passed: " + c.Message
		case c.Type == appsv1.DeploymentReplicaFailure && c.Status == corev1.ConditionTrue:
			now.ails = c.Reason + ": " + c.Message
		}
	}
	want := ptr.Deref(d.Spec.Replicas, 1)
	switch {
	case s.UpdatedReplicas < want:
		now.text = fmt.Sprintf("%d of %d pods are updated", s.UpdatedReplicas, want)
	case s.Replicas > s.UpdatedReplicas:
		now.text = fmt.Sprintf("%d old pods are left", s.Replicas-s.UpdatedReplicas)
	case s.AvailableReplicas < s.UpdatedReplicas:
		now.text = fmt.Sprintf("%d of %d updated pods are available", s.AvailableReplicas, s.UpdatedReplicas)
	default:
		return status{done: true, seen: true, text: fmt.Sprintf("%d pods are updated and available", s.UpdatedReplicas)}
	}
	return now
}

func statefulSetStatus(s *appsv1.StatefulSet) status {
	if s.Status.ObservedGeneration == 0 || s.Generation > s.Status.ObservedGeneration {
		return status{text: "waiting for the cluster to see the change"}
	}
	if s.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType {
		return status{done: true, seen: true, text: "pods take the image when somebody deletes them (OnDelete)"}
	}
	want := ptr.Deref(s.Spec.Replicas, 1)
	if s.Status.ReadyReplicas < want {
		return status{seen: true, text: fmt.Sprintf("%d of %d pods are ready", s.Status.ReadyReplicas, want)}
	}
	if rolling := s.Spec.UpdateStrategy.RollingUpdate; rolling != nil && ptr.Deref(rolling.Partition, 0) > 0 {
		part := want - *rolling.Partition
		if s.Status.UpdatedReplicas < part {
			return status{seen: true, text: fmt.Sprintf("%d of %d pods of the partition are updated", s.Status.UpdatedReplicas, part)}
		}
		return status{done: true, seen: true, text: fmt.Sprintf("%d pods of the partition are updated", s.Status.UpdatedReplicas)}
	}
	if s.Status.UpdateRevision != s.Status.CurrentRevision {
		return status{seen: true, text: fmt.Sprintf("%d of %d pods are updated", s.Status.UpdatedReplicas, want)}
	}
	return status{done: true, seen: true, text: fmt.Sprintf("%d pods are updated and ready", s.Status.CurrentReplicas)}
}

func daemonSetStatus(d *appsv1.DaemonSet) status {
	s := d.Status
	if d.Generation > s.ObservedGeneration {
		return status{text: "waiting for the cluster to see the change"}
	}
	if d.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType {
		return status{done: true, seen: true, text: "pods take the image when somebody deletes them (OnDelete)"}
	}
	switch want := s.DesiredNumberScheduled; {
	case s.UpdatedNumberScheduled < want:
		return status{seen: true, text: fmt.Sprintf("%d of %d pods are updated", s.UpdatedNumberScheduled, want)}
	case s.NumberAvailable < want:
		return status{seen: true, text: fmt.Sprintf("%d of %d updated pods are available", s.NumberAvailable, want)}
	}
	return status{done: true, seen: true, text: fmt.Sprintf("%d pods are updated and available", s.NumberAvailable)}
}

func cronJobStatus(j *batchv1.CronJob) status {
	return status{done: true, seen: true, text: "its next job takes the image (" + j.Spec.Schedule + ")"}
}
