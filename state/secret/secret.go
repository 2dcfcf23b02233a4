// Package secret keeps the state in one Kubernetes Secret, which takes a write
// only from who has read what was written last.
//
// Other than a data folder it has no lock: one regkeeper at a time works with
// it, which package controller sees to.
package secret

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"io"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/regkeeper/regkeeper/internal/kube"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/state"
)

const (
	// dataKey has the document, compressed with gzip: a Secret holds 1 MiB, and
	// what is known of some thousand places is more.
	dataKey = "state.json.gz"
	// maxDocument bounds in bytes what is unpacked.
	maxDocument = 64 << 20
	// secretType keeps other tools from taking it for one of theirs.
	secretType corev1.SecretType = "regkeeper.dev/state" //nolint:gosec // a type, no secret
)

// Store is the state in a Secret.
type Store struct {
	cluster *kube.Cluster
	key     types.NamespacedName

	mu sync.Mutex
	// version is the one that was read or written last; empty for none.
	version string
	// looking refuses to write.
	looking bool
}

var _ state.Store = (*Store)(nil)

// Open makes the store. It sends no request.
func Open(cluster *kube.Cluster, key types.NamespacedName) *Store {
	return &Store{cluster: cluster, key: key}
}

// ReadOnly makes a store that refuses to write.
func ReadOnly(cluster *kube.Cluster, key types.NamespacedName) *Store {
	return &Store{cluster: cluster, key: key, looking: true}
}

// Load reads the Secret.
func (s *Store) Load(ctx context.Context) (*state.Document, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found, err := s.cluster.Core.Secrets(s.key.Namespace).Get(ctx, s.key.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		s.version = ""
		return state.New(), nil
	}
	if err != nil {
		return nil, kube.Problem(err, "read state Secret %s", s.key)
	}
	if found.Type != secretType {
		return nil, problem.New(problem.Config, "give state.secret a name of its own", "Secret %s is of type %s and holds no state of regkeeper's", s.key, found.Type)
	}
	doc, err := decode(found.Data[dataKey])
	if err != nil {
		return nil, problem.Wrap(err, problem.Damaged,
			fmt.Sprintf("put a copy back; or, to begin anew: kubectl -n %s delete secret %s (logins left at their sources are then found by their names and revoked)", s.key.Namespace, s.key.Name),
			"state Secret %s", s.key)
	}
	s.version = found.ResourceVersion
	return doc, nil
}

// Save replaces the document, if nobody else has since it was read or written
// last: [state.ErrChanged] is in the error's chain otherwise.
func (s *Store) Save(ctx context.Context, doc *state.Document) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.looking {
		return problem.New(problem.Usage, "use sync, rotate or up", "the state is open for looking only")
	}
	data, err := encode(doc)
	if err != nil {
		return err
	}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: s.key.Namespace, Name: s.key.Name, ResourceVersion: s.version,
			Labels: map[string]string{kube.ManagedBy: kube.Manager},
		},
		Type: secretType, Data: map[string][]byte{dataKey: data},
	}
	secrets := s.cluster.Core.Secrets(s.key.Namespace)
	var saved *corev1.Secret
	if s.version == "" {
		saved, err = secrets.Create(ctx, secret, metav1.CreateOptions{FieldManager: kube.Manager})
	} else {
		saved, err = secrets.Update(ctx, secret, metav1.UpdateOptions{FieldManager: kube.Manager})
	}
	switch {
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err), apierrors.IsNotFound(err) && s.version != "":
		return problem.Wrap(fmt.Errorf("%w: %w", state.ErrChanged, err), problem.Busy,
			"try again: it is read anew; if this goes on, find the other regkeeper that has the same state", "write state Secret %s", s.key)
	case err != nil:
		return kube.Problem(err, "write state Secret %s", s.key)
	}
	s.version = saved.ResourceVersion
	return nil
}

func encode(doc *state.Document) ([]byte, error) {
	text, err := state.Encode(doc)
	if err != nil {
		return nil, err
	}
	var packed bytes.Buffer
	writer := gzip.NewWriter(&packed)
	if _, err := writer.Write(text); err != nil {
		return nil, err
	}
	if err := writer.Close(); err != nil {
		return nil, err
	}
	return packed.Bytes(), nil
}

func decode(packed []byte) (*state.Document, error) {
	reader, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(reader, maxDocument))
	if err != nil {
		return nil, err
	}
	return state.Decode(text)
}

// Instance is the id by which the regkeeper with this state knows what it made.
// It follows from the state's namespace alone, so that it outlives the Secret:
// whoever loses that still finds the logins at their sources, and the delivered
// Secrets.
func Instance(ctx context.Context, cluster *kube.Cluster, key types.NamespacedName) (string, error) {
	namespace, err := cluster.Core.Namespaces().Get(ctx, key.Namespace, metav1.GetOptions{})
	if err != nil {
		return "", kube.Problem(err, "read namespace %s", key.Namespace)
	}
	sum := sha256.Sum256([]byte(string(namespace.UID) + "/" + key.Name))
	return base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:])[:instanceLength], nil
}

// instanceLength is that of an id of a data folder: 130 bits.
const instanceLength = 26
