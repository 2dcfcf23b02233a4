package build_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regkeeper/regkeeper/release/build"
)

// The fake docker and the fake buildctl are this test's own binary, under a link
// with their name. They take the flags that the reference pages of buildx and
// buildctl list and refuse any other, keep builders in a file, note each call
// with all that it was given, and build nothing.

// call is what a fake was given.
type call struct {
	Argv []string
	Env  []string
	// Config is the text of config.json, Modes the permissions in the folder of
	// DOCKER_CONFIG.
	Config   string
	Modes    map[string]fs.FileMode
	Contexts []string
	Toml     string
}

func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "docker", "buildctl":
		os.Exit(fakeProgram())
	}
	os.Exit(m.Run())
}

// takes are the flags of each command, and whether they take a value.
var takes = map[string]map[string]bool{
	"docker buildx ls":      {"--format": true},
	"docker buildx create":  {"--name": true, "--driver": true, "--driver-opt": true, "--buildkitd-config": true},
	"docker buildx inspect": {"--bootstrap": false},
	"docker buildx rm":      {},
	"docker buildx build": {
		"--builder": true, "--progress": true, "--metadata-file": true, "--output": true, "--file": true, "--target": true, "--platform": true, "--pull": false, "--no-cache": false,
		"--build-arg": true, "--build-context": true, "--label": true, "--annotation": true, "--secret": true, "--provenance": true, "--sbom": true,
	},
	"buildctl debug workers": {"--addr": true, "--tlsdir": true},
	"buildctl build": {
		"--addr": true, "--tlsdir": true, "--progress": true, "--metadata-file": true, "--output": true, "--frontend": true, "--local": true, "--opt": true, "--secret": true, "--no-cache": false,
	},
}

func fakeProgram() int {
	home := filepath.Dir(os.Args[0])
	note(home)
	name := filepath.Base(os.Args[0])
	var words []string
	flags := map[string]string{}
	for i := 1; i < len(os.Args); i++ {
		flag, value, given := strings.Cut(os.Args[i], "=")
		if !strings.HasPrefix(flag, "--") {
			words = append(words, os.Args[i])
			continue
		}
		known, value2 := false, false
		for command, list := range takes {
			if takesValue, ok := list[flag]; ok && strings.HasPrefix(command, name) {
				known, value2 = true, takesValue
			}
		}
		if !known {
			return fail("unknown flag: " + flag)
		}
		if value2 && !given {
			i++
			value = os.Args[i]
		}
		flags[flag] = value
	}
	if _, err := os.Stat(filepath.Join(home, "fail")); err == nil {
		for i := range 40 {
			fmt.Fprintf(os.Stderr, "#%d line\n", i)
		}
		raw, _ := os.ReadFile(filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json"))
		fmt.Fprintln(os.Stderr, "tells the secret s3cret-of-the-push", len(raw))
		return 3
	}
	switch command := strings.Join(words[:min(2, len(words))], " "); {
	case command == "buildx ls" && flags["--format"] == "json":
		for name, driver := range builders(home) {
			nodes := fmt.Sprintf(`{"Name":"%s0"}`, name)
			if name == "farm" {
				nodes += `,{"Name":"farm1"}`
			}
			fmt.Printf(`{"Current":false,"Name":%q,"Driver":%q,"Dynamic":false,"Nodes":[%s]}`+"\n", name, driver, nodes)
		}
	case command == "buildx create":
		list := builders(home)
		if _, ok := list[flags["--name"]]; ok {
			return fail("existing instance for " + flags["--name"])
		}
		list[flags["--name"]] = flags["--driver"]
		keep(home, list)
		if _, err := os.Stat(filepath.Join(home, "late")); err == nil {
			return fail("existing instance for " + flags["--name"])
		}
	case command == "buildx inspect" || command == "buildx rm":
		list := builders(home)
		if _, ok := list[words[2]]; !ok {
			return fail("no builder " + words[2] + " found")
		}
		if command == "buildx rm" {
			delete(list, words[2])
			keep(home, list)
		}
	case command == "buildx build", words[0] == "build":
		if name == "docker" {
			if _, ok := builders(home)[flags["--builder"]]; !ok {
				return fail("no builder " + flags["--builder"] + " found")
			}
		}
		if _, err := os.Stat(filepath.Join(home, "hang")); err == nil {
			interrupted := make(chan os.Signal, 1)
			signal.Notify(interrupted, os.Interrupt)
			must(os.WriteFile(filepath.Join(home, "hangs"), nil, 0o600))
			select {
			case <-interrupted:
			case <-time.After(time.Minute):
			}
			return 130
		}
		fmt.Fprintln(os.Stderr, "#1 building\r")
		fmt.Fprint(os.Stderr, "#2 exporting")
		raw, _ := json.Marshal(map[string]any{"containerimage.digest": digest.FromString("built"), "buildx.build.ref": "x"})
		must(os.WriteFile(flags["--metadata-file"], raw, 0o600))
	case command == "debug workers":
	default:
		return fail("unknown command: " + command)
	}
	return 0
}

func fail(text string) int {
	fmt.Fprintln(os.Stderr, "ERROR: "+text)
	return 1
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func builders(home string) map[string]string {
	list := map[string]string{}
	raw, err := os.ReadFile(filepath.Join(home, "builders"))
	if err == nil {
		must(json.Unmarshal(raw, &list))
	}
	return list
}

func keep(home string, list map[string]string) {
	raw, _ := json.Marshal(list)
	must(os.WriteFile(filepath.Join(home, "builders"), raw, 0o600))
}

// note writes down the call.
func note(home string) {
	c := call{Argv: os.Args[1:], Env: os.Environ(), Modes: map[string]fs.FileMode{}}
	if folder := os.Getenv("DOCKER_CONFIG"); folder != "" {
		raw, _ := os.ReadFile(filepath.Join(folder, "config.json"))
		c.Config = string(raw)
		_ = filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
			if err == nil {
				info, _ := entry.Info()
				name, _ := filepath.Rel(folder, path)
				c.Modes[name] = info.Mode()
			}
			return nil
		})
		entries, _ := os.ReadDir(filepath.Join(folder, "contexts"))
		for _, entry := range entries {
			c.Contexts = append(c.Contexts, entry.Name())
		}
	}
	if i := slices.Index(os.Args, "--buildkitd-config"); i > 0 {
		raw, _ := os.ReadFile(os.Args[i+1])
		c.Toml = string(raw)
	}
	raw, _ := json.Marshal(c)
	file, err := os.OpenFile(filepath.Join(home, "calls"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	must(err)
	_, err = file.Write(append(raw, '\n'))
	must(err)
	must(file.Close())
}

// bench is a fake program, with the folder that builds are done in.
type bench struct {
	t testing.TB
	// home is where the fake keeps what it knows, user the user's docker folder,
	// temp where the logins are while it runs, context what is built.
	home, user, temp, context string
	program                   string
}

func newBench(t *testing.T, program string) *bench {
	t.Helper()
	root := t.TempDir()
	b := &bench{t: t, home: filepath.Join(root, "bin"), user: filepath.Join(root, "user"), temp: filepath.Join(root, "temp"), context: filepath.Join(root, "context")}
	b.program = filepath.Join(b.home, program)
	for _, folder := range []string{b.home, b.temp, filepath.Join(b.user, "contexts", "meta"), filepath.Join(b.user, "cli-plugins"), b.context} {
		must(os.MkdirAll(folder, 0o700))
	}
	self, err := os.Executable()
	must(err)
	must(os.Symlink(self, b.program))
	must(os.WriteFile(filepath.Join(b.context, "Dockerfile"), []byte("FROM scratch AS api\n"), 0o600))
	t.Setenv("DOCKER_CONFIG", b.user)
	// With the race detector a program takes a second to end otherwise.
	t.Setenv("GORACE", "atexit_sleep_ms=0")
	return b
}

func (b *bench) tools() build.Tools {
	return build.Tools{Program: b.program, Folder: b.temp, Env: []string{"GORACE"}}
}

// say has the fake behave in some way from now on.
func (b *bench) say(word string) { must(os.WriteFile(filepath.Join(b.home, word), nil, 0o600)) }

// calls are those so far.
func (b *bench) calls() (list []call) {
	b.t.Helper()
	raw, err := os.ReadFile(filepath.Join(b.home, "calls"))
	if err != nil {
		b.t.Fatal(err)
	}
	for text := range bytes.Lines(raw) {
		var c call
		must(json.Unmarshal(text, &c))
		list = append(list, c)
	}
	return list
}

// left are the files in the folder for logins.
func (b *bench) left() (names []string) {
	entries, err := os.ReadDir(b.temp)
	must(err)
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}
