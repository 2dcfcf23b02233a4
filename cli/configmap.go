package cli

import (
	"cmp"
	"context"
	"errors"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/types"

	"github.com/regkeeper/regkeeper/app"
	"github.com/regkeeper/regkeeper/config"
	"github.com/regkeeper/regkeeper/manifests"
	"github.com/regkeeper/regkeeper/problem"
)

const (
	// pluginPrefix begins the names of programs that kubectl runs as commands of
	// its own (Kubernetes documentation, "Extend kubectl with plugins").
	pluginPrefix = "kubectl-"
	pluginName   = "kubectl regkeeper"
	// configMapPrefix begins a --config that is in a cluster.
	configMapPrefix = "configmap:"
)

// isPlugin says whether kubectl runs the program of that name.
func isPlugin(program string) bool { return strings.HasPrefix(filepath.Base(program), pluginPrefix) }

// invocation matches where an example runs regkeeper.
var invocation = regexp.MustCompile(`(?m)(^ *|\| |<\()regkeeper `)

// asPlugin has help texts say how the program is run by kubectl.
func asPlugin(root *cobra.Command) {
	root.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: pluginName}
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		c.Example = invocation.ReplaceAllString(c.Example, "${1}"+pluginName+" ")
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(root)
}

// configMap is where in a cluster the configuration is, if it is there: where
// --config says so, or where kubectl runs us and there is no file.
func (e *env) configMap() (key types.NamespacedName, ok bool, err error) {
	text, named := strings.CutPrefix(e.configPath, configMapPrefix)
	if !named {
		_, _, err := config.Find(e.configPath)
		none := errors.Is(err, config.ErrNone)
		if none {
			err = nil
		}
		return types.NamespacedName{Namespace: e.namespace, Name: manifests.Name}, e.plugin && none, err
	}
	namespace, name, both := strings.Cut(text, "/")
	if !both {
		namespace, name = e.namespace, text
	}
	if namespace == "" || name == "" || strings.Contains(name, "/") {
		return key, false, problem.New(problem.Usage, "write it as configmap:regkeeper/regkeeper", "--config %q cannot be read", e.configPath)
	}
	return types.NamespacedName{Namespace: namespace, Name: name}, true, nil
}

// fromCluster says whether the configuration is in a cluster.
func (e *env) fromCluster() bool {
	_, inCluster, err := e.configMap()
	return inCluster && err == nil
}

// loadToLook is loadOrDefault for commands that change nothing: the
// configuration may then be in a cluster.
func (e *env) loadToLook(ctx context.Context) (c config.Config, data string, err error) {
	key, inCluster, err := e.configMap()
	if err != nil || !inCluster {
		if err == nil {
			c, data, err = e.loadOrDefault()
		}
		return c, data, err
	}
	text, err := app.ConfigMap(ctx, key, config.FileName, e.options())
	if err != nil {
		return c, "", err
	}
	if c, err = config.Parse("ConfigMap "+key.String(), manifests.Folder, []byte(text)); err != nil {
		return c, "", err
	}
	if c.State == nil {
		return c, "", problem.New(problem.Config, "ask in the pod that has the folder, by kubectl exec; or keep the state in the cluster: state: {secret: {}}",
			"ConfigMap %s: the state is in a folder, which cannot be seen from here", key)
	}
	if c.State.Namespace == "" {
		c.State.Namespace = key.Namespace
	}
	// What is remembered is in the cluster; the folder has tokens of the embedded
	// registry alone, which is not served there.
	_, data, _ = config.Find("")
	data, err = filepath.Abs(cmp.Or(e.dataPath, data))
	return c, data, err
}
