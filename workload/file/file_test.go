package file_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/workload/file"
)

// told is what a file says as text, without the file's name.
func told(name string, found file.Found) (list []string) {
	for _, u := range found.Uses {
		list = append(list, strings.TrimPrefix(u.Where, name+":")+" use "+u.Reference.String())
	}
	for _, o := range found.Open {
		list = append(list, strings.TrimPrefix(o.Where, name+":")+" open "+o.Repository.String())
	}
	for _, text := range found.Unknown {
		line, text, _ := strings.Cut(strings.TrimPrefix(text, name+":"), ": ")
		list = append(list, line+" unknown "+text)
	}
	for _, text := range found.Notes {
		line, text, _ := strings.Cut(strings.TrimPrefix(text, name+":"), ": ")
		list = append(list, line+" note "+text)
	}
	return list
}

const depends = " depends on a variable"

func TestParse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		about, name, text string
		variables         map[string]string
		want              []string
	}{{
		about: "a pipeline", name: ".gitlab-ci.yml",
		text: `image: ruby:3.1
default:
  services:
    - postgres:15
    - name: r.example/team/cache:2
      alias: cache
stages: [build, test]
build:
  image:
    name: r.example/team/builder@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
    entrypoint: [""]
  services: []
  script: [make]
test:
  script: docker run r.example/not/seen:1
`,
		want: []string{
			"10 use r.example/team/builder@sha256:" + strings.Repeat("a", 64),
			"1 use docker.io/library/ruby:3.1",
			"4 use docker.io/library/postgres:15", "5 use r.example/team/cache:2",
		},
	}, {
		about: "variables of a pipeline", name: "x.gitlab-ci.yml",
		text: `variables:
  BASE: r.example/team
  IMAGE: $BASE/builder
  TAG: {value: "1.10", options: ["1.10", "1.20"]}
  LOOP: $LOOP
.template:
  image: $IMAGE:$TAG
.unused:
  image: ${BASE}/unused:${NOBODY}
build:
  extends: .template
  variables: {TAG: "2.0"}
  script: make
default tag:
  extends: [.other, .template]
  script: make
matrix:
  image: ${BASE}/$NAME:1
  parallel:
    matrix:
      - NAME: [a, b]
      - NAME: c
  rules:
    - if: $CI
      variables: {NAME: d}
  script: make
open:
  image: $BASE/open:v1-$CI_COMMIT_SHORT_SHA
  script: make
closed:
  image: $CI_REGISTRY_IMAGE/ci:1
  script: make
loop:
  image: r.example/x$LOOP
  script: make
`,
		want: []string{
			"7 use r.example/team/builder:2.0", "7 use r.example/team/builder:1.10", "7 use r.example/team/builder:1.20",
			"18 use r.example/team/a:1", "18 use r.example/team/b:1", "18 use r.example/team/c:1", "18 use r.example/team/d:1",
			"28 open r.example/team/open", "9 open r.example/team/unused",
			`31 unknown the repository of image "$CI_REGISTRY_IMAGE/ci:1"` + depends, `34 unknown the repository of image "r.example/x$LOOP"` + depends,
			"15 note job default tag extends .other, which is not in this file: name the file that it is in too",
		},
	}, {
		about: "variables from outside count with those of the file", name: ".gitlab-ci.yml", variables: map[string]string{"CI_REGISTRY_IMAGE": "r.example/team/app", "TAG": "9"},
		text: "variables: {TAG: '1'}\nbuild:\n  image: $CI_REGISTRY_IMAGE/ci:$TAG\n",
		want: []string{"3 use r.example/team/app/ci:1", "3 use r.example/team/app/ci:9"},
	}, {
		about: "anchors, merges, references and includes", name: ".gitlab-ci.yml",
		text: `include:
  - local: /ci/build.yml
.a: &a
  image: r.example/a:1
  services: &s
    - r.example/s:1
.b:
  image: r.example/b:1
one:
  <<: *a
two:
  <<: *a
  image: !reference [.b, image]
  services:
    - *s
    - r.example/t:1
three:
  image: !reference [.elsewhere, image]
four:
  trigger: {include: other.yml}
`,
		want: []string{
			"4 use r.example/a:1", "6 use r.example/s:1", "8 use r.example/b:1", "16 use r.example/t:1",
			"18 unknown what !reference names is not in this file",
			"2 note files that it includes are not read: name them too", "20 note files that it includes are not read: name them too",
		},
	}, {
		about: "jobs that extend each other in a ring", name: ".gitlab-ci.yml",
		text: "a: {extends: b, image: 'r.example/a:1'}\nb: {extends: a}\n",
		want: []string{"1 use r.example/a:1"},
	}, {
		about: "what counts first", name: ".gitlab-ci.yml",
		text: `.a: &a {image: "r.example/a:$ONLY_THEIRS", variables: {X: a}}
.b: {image: "$ONLY_THEIRS", variables: {ONLY_THEIRS: "r.example/b:$X", X: b}}
image: r.example/$ONLY_THEIRS
one: {extends: [.a, .b]}
two: {extends: [.b, .a], variables: {ONLY_THEIRS: "2"}}
three: {<<: *a, image: "r.example/three:$X"}
four: {image: "r.example/four:$X", <<: *a}
five: {variables: {ONLY_THEIRS: "five:5"}}
`,
		want: []string{"2 use r.example/b:b", "1 use r.example/a:2", "6 use r.example/three:a", "7 use r.example/four:a", "3 use r.example/five:5"},
	}, {
		about: "a name that is none", name: ".gitlab-ci.yml",
		text: "a:\n  image: r.example/API:1\nb:\n  image: {entrypoint: ['']}\n",
		want: []string{`2 unknown image "r.example/API:1": invalid reference format: repository name (API) must be lowercase`, "4 unknown the image has no name"},
	}, {
		about: "a workflow", name: ".gitea/workflows/build.yaml",
		text: `on: push
jobs:
  one:
    runs-on: "big:docker://r.example/runner:1"
    container: r.example/ci:1
    services:
      db: {image: "postgres:15"}
      cache: {image: "r.example/cache:${{ github.ref_name }}"}
    steps:
      - uses: actions/checkout@v4
      - uses: docker://r.example/step:1
      - run: docker pull r.example/not/seen:1
  two:
    strategy:
      matrix:
        image: ["r.example/a:1", "r.example/b:1"]
        go: ["1.25", "1.26"]
        include: [{image: "r.example/c:1"}]
    container:
      image: ${{ matrix.image }}
    services:
      x: {image: "golang:${{matrix.go}}"}
  three:
    strategy: {matrix: "${{ fromJSON(needs.x.outputs.y) }}"}
    container: ${{ matrix.image }}
    services: {x: {ports: [1]}}
  four:
    uses: team/workflows/.gitea/workflows/x.yml@main
  five:
    container: ${{ vars.REGISTRY }}/ci:2
`,
		variables: map[string]string{"vars.REGISTRY": "r.example/team"},
		want: []string{
			"5 use r.example/ci:1", "7 use docker.io/library/postgres:15", "11 use r.example/step:1", "4 use r.example/runner:1",
			"20 use r.example/a:1", "20 use r.example/b:1", "20 use r.example/c:1",
			"22 use docker.io/library/golang:1.25", "22 use docker.io/library/golang:1.26",
			"30 use r.example/team/ci:2",
			"8 open r.example/cache",
			`25 unknown the repository of image "${{ matrix.image }}"` + depends, "26 unknown the container has no image",
			"28 note the workflow that job four calls is not read: name it too",
		},
	}, {
		about: "an action", name: "tool/action.yml",
		text: "runs:\n  using: docker\n  image: docker://r.example/action:1\n  steps:\n    - uses: docker://r.example/step:1\n",
		want: []string{"3 use r.example/action:1", "5 use r.example/step:1"},
	}, {
		about: "a Compose file", name: "compose.prod.yaml", variables: map[string]string{"REGISTRY": "r.example"},
		text: `include: [other.yml]
x-api: &api
  image: r.example/api:1
services:
  api:
    <<: *api
    volumes:
      - {type: image, source: r.example/data:1, target: /data}
      - ./a:/b
  db: {image: postgres}
  open: {image: "r.example/open:${TAG:-latest}"}
  closed: {image: "${OTHER:-r.example}/x:1"}
  known: {image: "${REGISTRY:-nobody}/x:1"}
  built:
    build: {context: ., additional_contexts: {base: "docker-image://r.example/base:1", src: ../src}}
  built2:
    build: {context: ., additional_contexts: ["base=docker-image://r.example/base:2"]}
  child:
    extends: {file: base.yml, service: x}
`,
		want: []string{
			"3 use r.example/api:1", "8 use r.example/data:1", "10 use docker.io/library/postgres:latest",
			"13 use r.example/x:1", "15 use r.example/base:1", "17 use r.example/base:2",
			"11 open r.example/open",
			`12 unknown the repository of image "${OTHER:-r.example}/x:1"` + depends,
			"1 note files that it includes are not read: name them too", "15 note service built is built: name its Dockerfile too",
			"17 note service built2 is built: name its Dockerfile too", "19 note service child extends one of base.yml: name that file too",
		},
	}, {
		about: "rendered manifests", name: "rendered.yaml",
		text: `# Source: chart/templates/a.yaml
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: api, annotations: {image: NOT ONE}}
spec:
  template:
    spec:
      initContainers: [{name: i, image: "r.example/init:1"}]
      containers:
        - name: c
          image: "r.example/api:1.10@sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
          command: [image, r.example/not/seen:1]
      volumes:
        - {name: v, image: {reference: "r.example/volume:1", pullPolicy: Always}}
        - {name: w, rbd: {image: DISK, monitors: []}}
---
---
apiVersion: v1
kind: List
items:
  - {apiVersion: v1, kind: ConfigMap, data: {image: NO IMAGE}}
  - apiVersion: v1
    kind: Pod
    metadata: {name: p}
    spec: {containers: [{name: c, image: "r.example/pod:${TAG}"}]}
---
apiVersion: example.com/v1
kind: Database
spec:
  image: {registry: r.example, repository: db, tag: 15}
  backup: {image: "BAD"}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
spec: {schema: {image: {type: string}, x: {image: BAD}}}
`,
		want: []string{
			"9 use r.example/init:1", "12 use r.example/api:1.10@sha256:" + strings.Repeat("b", 64), "15 use r.example/volume:1",
			"31 use r.example/db:15",
			"26 open r.example/pod",
			`32 unknown image "BAD": invalid reference format: repository name (library/BAD) must be lowercase`,
		},
	}, {
		about: "JSON", name: "pod.json",
		text: `{"apiVersion": "v1", "kind": "Pod",
 "spec": {"containers": [{"image": "r.example/pod:1"}]}}`,
		want: []string{"2 use r.example/pod:1"},
	}, {
		about: "a kustomization", name: "kustomization.yaml",
		text: `apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [x.yaml]
images:
  - {name: api, newName: r.example/api, newTag: "3"}
  - {name: r.example/web, digest: "sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"}
  - {name: x, newName: r.example/moved}
`,
		want: []string{
			"5 use r.example/api:3", "6 use r.example/web@sha256:" + strings.Repeat("c", 64), "7 open r.example/moved",
			"3 note files that it includes are not read: name what `kustomize build` prints",
		},
	}, {
		about: "a Dockerfile", name: "api.Dockerfile",
		text: `# syntax=docker/dockerfile:1
# a comment
ARG BASE=r.example/base
ARG VERSION="1.2" EMPTY=
ARG FULL=${BASE}:${VERSION}
ARG NONE
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
RUN --mount=type=cache,target=/x --mount=type=bind,from=r.example/tools:1,target=/t \
    # FROM r.example/comment:1

    make
FROM ${FULL} as Final
ARG BASE=r.example/stage FULL=r.example/stage:1
COPY --from=build --chown=1 /a /b
COPY --from=0 /a /b
COPY --from=r.example/files:1 /a /b
RUN <<TEXT cat > /x
FROM r.example/heredoc:1
TEXT
ONBUILD COPY --from=r.example/onbuild:1 /a /b
FROM final
FROM scratch
FROM build-$TARGETARCH
FROM build AS build-amd64
FROM build-$TARGETARCH
FROM r.example/none:$NONE
FROM ${NONE:-r.example/x}:1
FROM r.example/${EMPTY:-filled}:1
RUN echo $((1 <<X ))
FROM ${FULL}
FROM $NONE
from 'r.example/lower:1'
`,
		want: []string{
			"1 use docker.io/docker/dockerfile:1", "7 use docker.io/library/golang:1.26", "8 use r.example/tools:1",
			"12 use r.example/base:1.2", "16 use r.example/files:1", "20 use r.example/onbuild:1", "28 use r.example/filled:1", "30 use r.example/base:1.2", "32 use r.example/lower:1",
			"26 open r.example/none",
			`23 unknown the repository of image "build-$TARGETARCH"` + depends,
			`27 unknown the repository of image "${NONE:-r.example/x}:1"` + depends,
			`31 unknown the repository of image "$NONE"` + depends,
		},
	}, {
		about: "a Dockerfile for Windows", name: "Dockerfile",
		text: "# escape=`\r\nFROM `\r\n  r.example/win:1\r\nCOPY a C:\\\r\nFROM r.example/second:1\r\n",
		want: []string{"2 use r.example/win:1", "5 use r.example/second:1"},
	}, {
		about: "a list", name: "keep.txt",
		text: "# kept\n\nr.example/a:1\n  r.example/b  # for b\nr.example/c@sha256:dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd\nr.example/d:$TAG\ntwo words\nr.example:$PORT/x\nregistry:$PORT/x\nr.example/a:1\n",
		want: []string{
			"3 use r.example/a:1", "4 use r.example/b:latest", "5 use r.example/c@sha256:" + strings.Repeat("d", 64), "10 use r.example/a:1",
			"6 open r.example/d", `7 unknown image "two words": invalid reference format`,
			`8 unknown the repository of image "r.example:$PORT/x"` + depends, `9 unknown the repository of image "registry:$PORT/x"` + depends,
		},
	}} {
		t.Run(c.about, func(t *testing.T) {
			t.Parallel()
			found, err := file.New(file.Config{Variables: c.variables}).Parse("", c.name, []byte(c.text))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, told(c.name, found)); diff != "" {
				t.Errorf("found (-want +got):\n%s", diff)
			}
		})
	}
}

// TestDetect tells kinds by what files say.
func TestDetect(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"workflow.yml": "on: push\njobs: {a: {container: 'r.example/x:1'}}",
		"gitlab.yml":   "build: {image: 'r.example/x:1', script: make}",
		"empty.yml":    "---\n# Source: x\n---\n---\napiVersion: v1\nkind: Pod\nspec: {containers: [{image: 'r.example/x:1'}]}",
		"inputs.yml":   "spec: {inputs: {a: {}}}\n---\nimage: r.example/x:1",
		"stages.yml":   "stages: [a]\nimage: r.example/x:1",
		"stack.yml":    "services: {a: {image: 'r.example/x:1'}}",
		"pod.yml":      "apiVersion: v1\nkind: Pod\nspec: {containers: [{image: 'r.example/x:1'}]}",
		"Dockerfile.x": "FROM r.example/x:1",
		"images.list":  "r.example/x:1",
	} {
		found, err := file.New(file.Config{}).Parse("", name, []byte(text))
		if err != nil || len(found.Uses) != 1 || len(found.Unknown) != 0 {
			t.Errorf("%s: found %+v, %v", name, found, err)
		}
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat("[", 1000) + strings.Repeat("]", 1000)
	var indented, bomb strings.Builder
	for i := range 400 {
		indented.WriteString(strings.Repeat(" ", i) + "a:\n")
	}
	bomb.WriteString("apiVersion: v1\nkind: Pod\n")
	before := "[x]"
	for i := range 40 {
		a := "a" + strconv.Itoa(i)
		bomb.WriteString(a + ": &" + a + " [" + before + ", " + before + "]\n")
		before = "*" + a
	}
	for _, c := range []struct {
		name, text string
		kind       problem.Kind
		want       string
	}{
		{"values.yaml", "a: 1", problem.Usage, "values.yaml: what kind of file it is cannot be told"},
		{"binary", "\x7fELF", problem.Usage, "binary: what kind of file it is cannot be told"},
		{"a.yaml", "apiVersion: v1\nkind: Pod\nspec: {{ .Values.x }}\n", problem.Usage, "a.yaml:3: the file is a template"},
		{"a.yaml", "{{- if .Values.x }}\nkind: Pod\n", problem.Usage, "a.yaml:1: the file is a template"},
		{"compose.yml", "a: [\nb: }", problem.Damaged, "compose.yml: yaml: line 1: did not find expected node content"},
		{"compose.yml", "a: *nobody", problem.Damaged, "compose.yml: yaml: unknown anchor 'nobody' referenced"},
		{"compose.yml", "a: 1\nb: \xff", problem.Damaged, "compose.yml:2: it is no UTF-8"},
		{"compose.yml", deep, problem.Damaged, "compose.yml:1: it nests too deep"},
		{"compose.yml", indented.String(), problem.Damaged, "compose.yml:200: it nests too deep"},
		{"compose.yml", "a: &a [*a]", problem.Damaged, "compose.yml:1: what an anchor names contains itself"},
		{"compose.yml", "a: {}\nb: {c: 1, c: 2}", problem.Damaged, "compose.yml:2: key c is there twice"},
		{"pod.yml", bomb.String(), problem.Damaged, "pod.yml: its aliases repeat too much"},
		{"compose.yml", strings.Repeat("#", 17<<20), problem.Damaged, "compose.yml: it is larger than 16 MiB"},
	} {
		found, err := file.New(file.Config{}).Parse("", c.name, []byte(c.text))
		if err == nil || err.Error() != c.want || problem.KindOf(err) != c.kind || problem.HintOf(err) == "" || len(found.Uses) > 0 {
			t.Errorf("%s: error %v of kind %s, hint %q; want %s", c.name, err, problem.KindOf(err), problem.HintOf(err), c.want)
		}
	}
	if _, err := file.New(file.Config{}).Parse("helm", "x", nil); problem.KindOf(err) != problem.Usage {
		t.Errorf("a kind that there is not: %v", err)
	}
}

func TestRead(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	path := filepath.Join(folder, "build.yml")
	if err := os.WriteFile(path, []byte("image: r.example/x:1"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := file.New(file.Config{})
	found, err := r.Read("gitlab=" + path)
	if diff := cmp.Diff([]string{"1 use r.example/x:1"}, told(path, found)); diff != "" || err != nil {
		t.Errorf("found (-want +got):\n%s%v", diff, err)
	}
	for argument, want := range map[string]problem.Kind{
		path: problem.Usage, folder: problem.Usage, path + ".not": problem.NotFound, "other=" + path: problem.NotFound,
	} {
		if _, err := r.Read(argument); problem.KindOf(err) != want {
			t.Errorf("%s: error %v, want one of kind %s", argument, err, want)
		}
	}
}

// TestLaughs has variables that come to more than anybody holds.
func TestLaughs(t *testing.T) {
	t.Parallel()
	pipeline, build := "variables:\n  V0: x\n", "ARG V0=x\n"
	for i := 1; i < 60; i++ {
		value := strings.Repeat("$V"+strconv.Itoa(i-1), 10)
		pipeline += "  V" + strconv.Itoa(i) + ": " + value + "\n"
		build += "ARG V" + strconv.Itoa(i) + "=" + value + "\n"
	}
	pipeline += "a: {image: 'r.example/a:$V59'}\nb: {image: 'r.example/$V9'}\nc: {image: 'r.example/c:$V1'}\n"
	build += "FROM r.example/a:$V59\nFROM r.example/$V9\nFROM r.example/c:$V1\n"
	for name, text := range map[string]string{".gitlab-ci.yml": pipeline, "Dockerfile": build} {
		found, err := file.New(file.Config{}).Parse("", name, []byte(text))
		if err != nil || len(found.Open) != 1 || len(found.Unknown) != 1 || len(found.Uses) != 1 || found.Uses[0].Reference.Tag != strings.Repeat("x", 10) {
			t.Errorf("%s: found %+v, %v", name, found, err)
		}
	}
}
