package cli_test

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/regkeeper/regkeeper/cli"
)

var update = flag.Bool("update", false, "rewrite the goldens in testdata/script")

// raceScripts are the scripts that run with the race detector; none means all.
var raceScripts []string

// TestMain makes the test binary stand in for the programs that scripts run.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"regkeeper": regkeeper,
		// What kubectl runs for: kubectl regkeeper.
		"kubectl-regkeeper": regkeeper,
		"scrub":             scrub,
		"httpget":           httpget,
		"schema":            schema,
		"builds":            builds,
	})
}

// TestScript runs testdata/script: a file for each command.
func TestScript(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	if len(raceScripts) > 0 {
		files = nil
		for _, name := range raceScripts {
			files = append(files, filepath.Join("testdata/script", name+".txtar"))
		}
	}
	testscript.Run(t, testscript.Params{
		Files:               files,
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			home := filepath.Join(env.WorkDir, "home")
			env.Setenv("HOME", home)
			env.Setenv("XDG_CONFIG_HOME", filepath.Join(home, ".config"))
			return os.MkdirAll(home, 0o700)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code":     scriptCode,
			"until":    scriptUntil,
			"capture":  scriptCapture,
			"freeport": scriptFreePort,
			"hold":     scriptHold,
			"expand":   scriptExpand,
			"signal":   scriptSignal,
			"mode":     scriptMode,
			"runners":  scriptRunners,
		},
	})
}

// regkeeper is the program: what cmd/regkeeper does.
func regkeeper() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	streams := cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}
	os.Exit(cli.Run(ctx, streams, hangup, os.Args[1:]...))
}

// scrubs puts a word for what differs from run to run.
var scrubs = []struct {
	pattern *regexp.Regexp
	word    string
}{
	{regexp.MustCompile(`rkt[0-9a-f]{16}`), "ID"},
	{regexp.MustCompile(`rkp_[0-9a-f]{64}`), "SECRET"},
	{regexp.MustCompile(`static-(\w+)-[0-9a-f]{8}`), "static-$1-PRINT"},
	{regexp.MustCompile(`regkeeper-[0-9a-f]{8}-[0-9a-f]{8}-\w+-\w+`), "NAME"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?`), "TIME"},
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "HOST"},
	{regexp.MustCompile(`\b\d+([smhd]| days| hours| minutes) ago`), "AGO"},
	{regexp.MustCompile(`\bin \d+[smhd]\b`), "SOON"},
	{regexp.MustCompile(`process \d+`), "process PID"},
	{regexp.MustCompile(`\(took [0-9.]+[a-zµ]+\)`), "(took TIME)"},
	{regexp.MustCompile(`([^ \n])  +`), "$1  "},
}

// scrub copies standard input, scrubbed.
func scrub() {
	content, err := io.ReadAll(os.Stdin)
	if err != nil {
		panic(err)
	}
	text := strings.ReplaceAll(string(content), os.Getenv("WORK"), "WORK")
	for _, s := range scrubs {
		text = s.pattern.ReplaceAllString(text, s.word)
	}
	fmt.Print(text)
}

// httpget prints the status and body that a URL answers with, or a control
// socket to the question for the status.
func httpget() {
	client, url := http.DefaultClient, os.Args[1]
	if !strings.HasPrefix(url, "http://") {
		client = &http.Client{Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", os.Args[1])
			},
		}}
		url = "http://regkeeper/status"
	}
	response, err := client.Get(url)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	defer func() { _ = response.Body.Close() }()
	fmt.Println(response.StatusCode)
	_, _ = io.Copy(os.Stdout, response.Body)
}

// schema checks that standard input is a JSON Schema that compiles, as its own
// meta-schema has it.
func schema() {
	doc, err := jsonschema.UnmarshalJSON(os.Stdin)
	if err == nil {
		compiler := jsonschema.NewCompiler()
		err = compiler.AddResource("it.json", doc)
		if err == nil {
			_, err = compiler.Compile("it.json")
		}
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("valid")
}

// scriptCode runs a program and compares its exit code: code 7 regkeeper up.
func scriptCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code NUMBER PROGRAM [ARGUMENT...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code is %d, want %d", got, want)
	}
}

// patience is how long a script waits for something.
const patience = time.Minute

// scriptUntil runs a program until its standard output matches.
func scriptUntil(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: until PATTERN PROGRAM [ARGUMENT...]")
	}
	pattern, err := regexp.Compile(args[0])
	ts.Check(err)
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		_ = ts.Exec(args[1], args[2:]...)
		if pattern.MatchString(ts.ReadFile("stdout")) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("standard output never matched %q", args[0])
		}
	}
}

// scriptCapture sets a variable to the first group of a pattern in standard
// output.
func scriptCapture(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: capture NAME PATTERN")
	}
	found := regexp.MustCompile(args[1]).FindStringSubmatch(ts.ReadFile("stdout"))
	if len(found) < 2 {
		ts.Fatalf("standard output does not match %q", args[1])
	}
	ts.Setenv(args[0], found[1])
}

// scriptFreePort sets variables to ports that are free.
func scriptFreePort(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		ts.Setenv(name, freePort())
	}
}

// freePort is a port outside the range from which the system takes those of
// connections, so that it stays free until it is used.
func freePort() string {
	for {
		port := strconv.Itoa(20000 + rand.IntN(10000))
		listener, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err == nil {
			_ = listener.Close()
			return port
		}
	}
}

// scriptHold listens on a port until the script ends.
func scriptHold(ts *testscript.TestScript, _ bool, args []string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { _ = listener.Close() })
	ts.Setenv(args[0], listener.Addr().String())
}

// scriptExpand expands variables in files.
func scriptExpand(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		text := os.Expand(ts.ReadFile(name), ts.Getenv)
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(text), 0o600))
	}
}

// scriptSignal sends a signal to the programs in the background.
func scriptSignal(ts *testscript.TestScript, _ bool, args []string) {
	signals := map[string]os.Signal{"TERM": syscall.SIGTERM, "HUP": syscall.SIGHUP, "INT": os.Interrupt}
	for _, command := range ts.BackgroundCmds() {
		ts.Check(command.Process.Signal(signals[args[0]]))
	}
}

// scriptMode compares files' permission bits: mode 600 FILE...
func scriptMode(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.ParseUint(args[0], 8, 32)
	ts.Check(err)
	for _, name := range args[1:] {
		info, err := os.Stat(ts.MkAbs(name))
		ts.Check(err)
		if info.Mode().Perm() != fs.FileMode(want) {
			ts.Fatalf("%s has mode %o, want %o", name, info.Mode().Perm(), want)
		}
	}
}

// TestEveryCommandHasExamples holds each command to what the help texts
// promise.
func TestEveryCommandHasExamples(t *testing.T) {
	t.Parallel()
	var walk func(path []string)
	seen := 0
	walk = func(path []string) {
		help, _, code := run(t, append(path, "--help")...)
		if code != 0 {
			t.Errorf("%v --help: exit code %d", path, code)
		}
		commands := subcommands(help)
		if len(commands) == 0 {
			seen++
			if !strings.Contains(help, "Examples:\n  regkeeper ") && !strings.Contains(help, "Examples:\n  source <(regkeeper ") {
				t.Errorf("%v has no example:\n%s", path, help)
			}
		}
		for _, name := range commands {
			walk(append(path[:len(path):len(path)], name))
		}
	}
	walk(nil)
	if seen < 15 {
		t.Errorf("only %d commands were found", seen)
	}
}

// subcommands reads a help text's list of commands.
func subcommands(help string) (names []string) {
	_, list, ok := strings.Cut(help, "Available Commands:\n")
	if !ok {
		return nil
	}
	for lines := bufio.NewScanner(strings.NewReader(list)); lines.Scan() && lines.Text() != ""; {
		names = append(names, strings.Fields(lines.Text())[0])
	}
	return names
}

// run runs one command line in this process.
func run(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs strings.Builder
	code = cli.Run(t.Context(), cli.Streams{In: strings.NewReader(""), Out: &out, Err: &errs}, nil, args...)
	return out.String(), errs.String(), code
}
