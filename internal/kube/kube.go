// Package kube owns the way to a Kubernetes cluster: which one it is, how its
// API is called, what is mirrored of it, and what its errors mean to people.
//
// It refuses to know what regkeeper wants of a cluster: the targets and the
// store of the state do.
package kube

import (
	"context"
	"errors"
	"net"
	"net/url"
	"os"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	appsv1 "k8s.io/client-go/kubernetes/typed/apps/v1"
	authorizationv1 "k8s.io/client-go/kubernetes/typed/authorization/v1"
	batchv1 "k8s.io/client-go/kubernetes/typed/batch/v1"
	coordinationv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	policyv1 "k8s.io/client-go/kubernetes/typed/policy/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/regkeeper/regkeeper/problem"
)

// Manager is the name under which regkeeper applies fields on the server
// (Kubernetes documentation, "Server-Side Apply", field managers), and the
// value of the label app.kubernetes.io/managed-by of what it made.
const Manager = "regkeeper"

// The labels and annotations that regkeeper sets or obeys.
const (
	// ManagedBy is the recommended label that says whose an object is.
	ManagedBy = "app.kubernetes.io/managed-by"
	// Owner is the label with the id of the regkeeper that made an object.
	Owner = "regkeeper.dev/owner"
	// Exclude is the annotation by which a namespace, a ServiceAccount or a pod
	// opts out; its value is "true".
	Exclude = "regkeeper.dev/exclude"
	// Adopt is the annotation by which a Secret that regkeeper did not make is
	// given to it; its value is "true".
	Adopt = "regkeeper.dev/adopt"
	// NotMade is the annotation of a Secret that regkeeper keeps and did not make:
	// it never deletes that. Its value is "true".
	NotMade = "regkeeper.dev/adopted"
	// Login is the annotation that stands for the logins that a workload was
	// restarted for last.
	Login = "regkeeper.dev/login"
)

// Config says which cluster.
type Config struct {
	// Kubeconfig is the path of a kubeconfig file. Empty: the files that the
	// variable KUBECONFIG names, or ~/.kube/config; where there is none, the
	// cluster that this process runs in.
	Kubeconfig string
	// Context is the context in it; empty for the current one.
	Context string
	// Version is regkeeper's, for the user agent of its requests.
	Version string
}

// Cluster is a way to one cluster. Its clients may be used at the same time.
type Cluster struct {
	// Context is the kubeconfig's context; empty for the current one, or for the
	// cluster that this process runs in.
	Context string
	// Namespace is the one that the kubeconfig's context, or the pod's own
	// ServiceAccount, names; empty if none does.
	Namespace string

	Core         corev1.CoreV1Interface
	Apps         appsv1.AppsV1Interface
	Batch        batchv1.BatchV1Interface
	Policy       policyv1.PolicyV1Interface
	Coordination coordinationv1.CoordinationV1Interface
	// Authorization tells what this client may do.
	Authorization authorizationv1.AuthorizationV1Interface
	// Executor runs programs in containers.
	Executor Executor
	// Recorder makes Events; nil makes none.
	Recorder *Recorder
}

// Open makes the clients of a cluster. It sends no request. The error is a
// problem of kind [problem.Config] if there is no such cluster.
func Open(config Config) (*Cluster, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = config.Kubeconfig
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: config.Context})
	access, err := loader.ClientConfig()
	if err != nil {
		return nil, problem.Wrap(err, problem.Config,
			"name a kubeconfig with --kubeconfig or KUBECONFIG, and one of the contexts that `kubectl config get-contexts` lists", "%s", describe(config))
	}
	access.UserAgent = Manager + "/" + config.Version
	// The apiserver divides its capacity fairly itself (API Priority and
	// Fairness) and answers 429 with a time to wait, which the client obeys.
	access.QPS = -1
	access.ContentType = runtime.ContentTypeProtobuf
	access.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	// client-go prints the server's warnings otherwise, past every log.
	access.WarningHandler = rest.NoWarnings{}
	cluster, err := newCluster(access)
	if err != nil {
		return nil, problem.Wrap(err, problem.Config, "check the kubeconfig", "%s", describe(config))
	}
	cluster.Context = config.Context
	if cluster.Namespace, _, err = loader.Namespace(); err != nil {
		return nil, problem.Wrap(err, problem.Config, "check the kubeconfig", "%s", describe(config))
	}
	return cluster, nil
}

func newCluster(access *rest.Config) (*Cluster, error) {
	limited := rest.CopyConfig(access)
	limited.Wrap(patient)
	client, err := rest.HTTPClientFor(limited)
	if err != nil {
		return nil, err
	}
	core, errCore := corev1.NewForConfigAndClient(access, client)
	apps, errApps := appsv1.NewForConfigAndClient(access, client)
	batch, errBatch := batchv1.NewForConfigAndClient(access, client)
	policy, errPolicy := policyv1.NewForConfigAndClient(access, client)
	coordination, errCoordination := coordinationv1.NewForConfigAndClient(access, client)
	authorization, errAuthorization := authorizationv1.NewForConfigAndClient(access, client)
	if err := errors.Join(errCore, errApps, errBatch, errPolicy, errCoordination, errAuthorization); err != nil {
		return nil, err
	}
	return &Cluster{
		Core: core, Apps: apps, Batch: batch, Policy: policy, Coordination: coordination, Authorization: authorization,
		Executor: &remote{access: access, core: core},
	}, nil
}

func describe(config Config) string {
	switch {
	case config.Context != "":
		return "context " + config.Context
	case config.Kubeconfig != "":
		return "kubeconfig " + config.Kubeconfig
	case os.Getenv(clientcmd.RecommendedConfigPathEnvVar) != "":
		return "kubeconfig " + os.Getenv(clientcmd.RecommendedConfigPathEnvVar)
	}
	return "cluster"
}

// Problem makes a problem of an error of the cluster's API, for people: nil if
// err is nil. What the error wraps stays in its chain.
func Problem(err error, format string, args ...any) error {
	kind, hint := problem.Internal, ""
	var network net.Error
	var address *url.Error
	switch {
	case apierrors.IsForbidden(err):
		kind, hint = problem.Denied, "give regkeeper this right: `regkeeper install kubernetes` prints what this configuration needs"
	case apierrors.IsUnauthorized(err):
		kind, hint = problem.Denied, "the cluster refuses the kubeconfig's login, or that of the ServiceAccount: renew it"
	case apierrors.IsNotFound(err):
		kind = problem.NotFound
	case apierrors.IsConflict(err):
		kind, hint = problem.Busy, "find who else writes there: kubectl get --show-managed-fields tells"
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		kind = problem.Config
	case apierrors.IsTooManyRequests(err), apierrors.IsTimeout(err), apierrors.IsServerTimeout(err), apierrors.IsServiceUnavailable(err),
		apierrors.IsInternalError(err), errors.Is(err, context.DeadlineExceeded), errors.As(err, &network), errors.As(err, &address):
		kind, hint = problem.Unreachable, "it is tried again; `kubectl get --raw /readyz` says how the apiserver is"
	}
	return problem.Wrap(err, kind, hint, format, args...)
}
