package manifests

import (
	"bytes"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

// Documents are the objects as they are written: with kind and version, and
// without what the cluster fills in.
func (s Set) Documents() ([]*unstructured.Unstructured, error) {
	var documents []*unstructured.Unstructured
	for _, object := range s.Objects {
		kinds, _, err := scheme.Scheme.ObjectKinds(object)
		if err != nil {
			return nil, fmt.Errorf("write %T: %w", object, err)
		}
		content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
		if err != nil {
			return nil, fmt.Errorf("write %T: %w", object, err)
		}
		delete(content, "status")
		bare(content)
		document := &unstructured.Unstructured{Object: content}
		document.SetGroupVersionKind(kinds[0])
		documents = append(documents, document)
	}
	return documents, nil
}

// filledIn are the fields that say nothing where they are empty. Other empty
// fields do: an empty selector selects everything.
var filledIn = map[string]bool{
	"creationTimestamp": true, "metadata": true, "resources": true, "spec": true, "status": true, "strategy": true, "updateStrategy": true,
}

// bare takes out what is empty.
func bare(value any) {
	switch v := value.(type) {
	case map[string]any:
		for key, inner := range v {
			bare(inner)
			object, isObject := inner.(map[string]any)
			if inner == nil || filledIn[key] && isObject && len(object) == 0 {
				delete(v, key)
			}
		}
	case []any:
		for _, inner := range v {
			bare(inner)
		}
	}
}

// YAML is the objects as `kubectl apply -f -` takes them, below the lines of a
// comment. The same objects are the same text.
func (s Set) YAML(comment string) ([]byte, error) {
	documents, err := s.Documents()
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	text.WriteString(commented(comment))
	for i, document := range documents {
		if i > 0 || comment != "" {
			text.WriteString("---\n")
		}
		one, err := yaml.Marshal(document.Object)
		if err != nil {
			return nil, fmt.Errorf("write %s: %w", document.GetKind(), err)
		}
		text.Write(one)
	}
	return text.Bytes(), nil
}

// commented is a text as lines of a YAML comment.
func commented(text string) string {
	if text == "" {
		return ""
	}
	var lines strings.Builder
	for line := range strings.Lines(strings.TrimSuffix(text, "\n") + "\n") {
		lines.WriteString(strings.TrimRight("# "+line, " \n") + "\n")
	}
	return lines.String()
}
