package file_test

import (
	"strings"
	"testing"

	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/workload/file"
)

// seeds are texts from which a fuzzer comes far.
var seeds = []string{
	"a: &a\n  image: r.example/a:$X\n  services: [*b, {name: x}]\n  <<: *a\n", "image: !reference [a, image]\n",
	"jobs: {a: {container: '${{ matrix.x }}', strategy: {matrix: {x: [1], include: [{x: 2}]}}}}\n",
	"services: {a: {image: '${A:-${B}}:1', build: {additional_contexts: [a=docker-image://x]}}}\n",
	"apiVersion: v1\nkind: List\nitems: [{image: {repository: x, tag: 1}}]\n---\n- image: x\n",
	"# escape=`\nARG A=$A\nFROM ${A:+b}:$C AS d\nCOPY --from=d x y\nRUN --mount=from=x <<EOF\nEOF\n", "a:1 # b\n$$a:${",
}

// FuzzParse: whatever a file says, it is an answer or a problem for people, and
// every name that is found stands for itself.
func FuzzParse(f *testing.F) {
	for _, seed := range seeds {
		f.Add(seed)
	}
	kinds := []file.Kind{"", file.GitLab, file.Workflow, file.Compose, file.Kubernetes, file.Dockerfile, file.List}
	f.Fuzz(func(t *testing.T, text string) {
		for _, kind := range kinds {
			found, err := file.New(file.Config{Variables: map[string]string{"X": "y", "B": "$B$A"}}).Parse(kind, "f.yaml", []byte(text))
			if err != nil && problem.KindOf(err) == problem.Internal {
				t.Errorf("%s: %v", kind, err)
			}
			for _, u := range found.Uses {
				if u.Reference.Path == "" || u.Reference.Target() == "" || !strings.HasPrefix(u.Where, "f.yaml:") || strings.Contains(u.Reference.String(), "\x00") {
					t.Errorf("%s: use %+v", kind, u)
				}
			}
			for _, o := range found.Open {
				if o.Repository.Path == "" {
					t.Errorf("%s: open %+v", kind, o)
				}
			}
		}
	})
}
