// Package peer is what the differential tests and the programs that hold the clients'
// own libraries say to each other: a question a line, a list of answers a line, in
// JSON, on stdin and stdout.
//
// It refuses dependencies, so that it adds nothing to the modules that pin a client.
package peer

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
)

// Question asks a client which login it takes for an image. The files it looks at
// are there when it is asked.
type Question struct {
	Client string
	Image  string
	// Env is the whole environment of the client.
	Env map[string]string
	// Root stands for the folder / where a client lets it.
	Root string
	// Times is how often the client is asked; answers that differ are all given.
	Times int

	// Variable and Payload are what GitLab Runner is handed for a job.
	Variable string
	Payload  []Payload
	// Secrets are those of a workflow's job, Credentials those that it names for the
	// container or service.
	Secrets     map[string]string
	Credentials map[string]string
	Service     bool
	// PullSecrets are a pod's.
	PullSecrets []PullSecret
}

// Payload is a login that comes with a job of GitLab.
type Payload struct{ Type, URL, Username, Password string }

// PullSecret is a Kubernetes Secret.
type PullSecret struct {
	Name, Type string
	Data       map[string][]byte
}

// Login is a login as registries see it.
type Login struct{ Username, Password, IdentityToken, RegistryToken string }

// Answer is what the client does: it gives up, or tries logins in order. With none
// it asks as nobody.
type Answer struct {
	Tries []Login
	Error string
}

func (a Answer) equal(b Answer) bool {
	return (a.Error == "") == (b.Error == "") && slices.Equal(a.Tries, b.Tries)
}

// Client asks a client's own library.
type Client func(Question) ([]Login, error)

// Serve answers questions until stdin ends. What the libraries print goes to stderr.
func Serve(clients map[string]Client) {
	out := json.NewEncoder(os.Stdout)
	os.Stdout = os.Stderr
	in := bufio.NewReader(os.Stdin)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			if err != io.EOF {
				fmt.Fprintln(os.Stderr, err)
			}
			return
		}
		var q Question
		if err := json.Unmarshal(line, &q); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		if err := out.Encode(Ask(clients, q)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
	}
}

// Ask has the client answer as often as the question says, and gives the answers
// that differ.
func Ask(clients map[string]Client, q Question) []Answer {
	os.Clearenv()
	for name, value := range q.Env {
		_ = os.Setenv(name, value)
	}
	answers := []Answer{}
	for range max(q.Times, 1) {
		a := once(clients[q.Client], q)
		if !slices.ContainsFunc(answers, a.equal) {
			answers = append(answers, a)
		}
	}
	return answers
}

func once(client Client, q Question) (a Answer) {
	defer func() {
		if r := recover(); r != nil {
			a = Answer{Error: fmt.Sprint("panic: ", r)}
		}
	}()
	tries, err := client(q)
	if err != nil {
		return Answer{Error: err.Error()}
	}
	return Answer{Tries: tries}
}

// One is what a client tries that takes one login; an empty one is none.
func One(l Login) []Login {
	if l == (Login{}) {
		return nil
	}
	return []Login{l}
}
