package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/regkeeper/regkeeper/config"
	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/disk"
	"github.com/regkeeper/regkeeper/kubelet"
	"github.com/regkeeper/regkeeper/problem"
)

// nodeInstall is what the commands that set up a node's kubelet share.
type nodeInstall struct {
	*env
	dir, file, audience string
	cache               time.Duration
	allow               []string
	tokens, write, copy bool
	// showTarget prints the target that keeps the file also where there is one.
	showTarget bool
}

// installed is the result, as -o json prints it.
type installed struct {
	Path    string `json:"path"`
	Config  string `json:"config"`
	Program string `json:"program"`
	// Changed are the paths that were written, or that would be.
	Changed []string `json:"changed"`
	Written bool     `json:"written"`
	Flags   []string `json:"flags"`
	// Target is the part of regkeeper's configuration that keeps the file.
	Target string `json:"target"`
}

func (n *nodeInstall) flags(c *cobra.Command, dir string) {
	providerFlags(c, &n.file, &n.cache, &n.allow)
	flags := c.Flags()
	flags.BoolVar(&n.write, "write", false, "write the document and link the program, rather than print")
	flags.StringVar(&n.dir, "dir", dir, "the folder of config.yaml and bin")
	flags.BoolVar(&n.copy, "copy", false, "with --write, copy the program rather than link it")
	flags.BoolVar(&n.tokens, "service-account-token", false, "have the kubelet send who the pod is (Kubernetes 1.34; with a feature gate 1.33)")
	flags.StringVar(&n.audience, "audience", kubelet.DefaultAudience, "whom the tokens are meant for, with --service-account-token")
}

func (n *nodeInstall) run(ctx context.Context, next func(config, bin string) string) error {
	if err := checkProvider(n.cache, n.allow); err != nil {
		return err
	}
	if len(n.allow) > 0 && !n.tokens {
		return problem.New(problem.Usage, "add --service-account-token", "--allow without tokens would allow nobody")
	}
	dir, err := filepath.Abs(n.dir)
	if err != nil {
		return err
	}
	n.dir = dir
	if n.file, err = filepath.Abs(n.file); err != nil {
		return err
	}
	cfg, _, err := n.load()
	if err != nil {
		return err
	}
	n.warn(cfg.Warnings)
	provider := kubelet.Provider{File: n.file, Cache: n.cache, Allow: n.allow}
	if n.tokens {
		provider.Audience = n.audience
	}
	hosts, kept := keptIn(cfg, n.file)
	provider.Hosts = hosts
	if err := withinOverlap(cfg, hosts, n.cache); err != nil {
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	bin := filepath.Join(n.dir, "bin")
	result := installed{
		Path: filepath.Join(n.dir, "config.yaml"), Program: filepath.Join(bin, kubelet.Name), Changed: []string{}, Written: n.write,
		Target: kubelet.Target(n.file, hosts),
	}
	result.Flags = kubelet.Flags(result.Path, bin)
	file, doc, err := document(result.Path)
	if err != nil {
		return err
	}
	changed, err := doc.Set(provider)
	if err != nil {
		return err
	}
	result.Config = string(doc.Bytes())
	if changed {
		result.Changed = append(result.Changed, result.Path)
	}
	// The program first: a kubelet that starts in between does without it, and
	// one that knows of a program which is not there does not start.
	if placed, err := n.place(program, result.Program); err != nil {
		return err
	} else if placed {
		result.Changed = append(result.Changed, result.Program)
	}
	if changed && n.write {
		if _, err := file.Update(ctx, func(doc *kubelet.Config) (bool, error) { return doc.Set(provider) }); err != nil {
			return err
		}
	}
	if n.json() {
		return n.printJSON(result)
	}
	n.show(result)
	n.note("%s", next(result.Path, bin))
	if n.tokens {
		n.note("Once in the cluster, kubelets must be let ask for such tokens; without, no pod gets a login:\n%s", kubelet.TokenRights(n.audience))
	}
	switch {
	case !kept:
		n.note("No target keeps %s. Add to regkeeper's configuration:\n%s", n.file, result.Target)
	case n.showTarget:
		n.note("This target keeps %s, or one like it:\n%s", n.file, result.Target)
	}
	return nil
}

func (n *nodeInstall) show(result installed) {
	if !n.write {
		n.printf("%s", result.Config)
		n.note("With --write it goes to %s, and this program is linked as %s.", result.Path, result.Program)
		return
	}
	for _, path := range []string{result.Path, result.Program} {
		word := "unchanged"
		if slices.Contains(result.Changed, path) {
			word = "wrote"
		}
		n.printf("%s %s\n", word, path)
	}
}

// note goes to standard error, so that the document can be taken by a script.
func (e *env) note(format string, args ...any) {
	_, _ = fmt.Fprintf(e.Err, format+"\n", args...)
}

// keptIn are the registries whose logins a target delivers to the file; all, if
// there is no such target.
func keptIn(c config.Config, file string) (hosts []credential.Host, kept bool) {
	for _, t := range c.Targets {
		if t.File == nil || t.File.Format != config.FormatDocker || !slices.Contains(t.File.Paths, file) {
			continue
		}
		kept = true
		if len(t.Registries) == 0 {
			hosts = nil
			break
		}
		for _, host := range t.Registries {
			if !slices.Contains(hosts, host) {
				hosts = append(hosts, host)
			}
		}
	}
	if hosts == nil {
		for _, r := range c.Registries {
			hosts = append(hosts, r.Host)
		}
	}
	return hosts, kept
}

// withinOverlap refuses a cache in which a login outlives its end.
func withinOverlap(c config.Config, hosts []credential.Host, cache time.Duration) error {
	for _, r := range c.Registries {
		if r.Source.Static == nil && cache >= r.Rotate.Overlap && slices.Contains(hosts, r.Host) {
			return problem.New(problem.Config, "give a shorter --cache, or make rotate.overlap longer",
				"registry %s: the kubelet would use a login for %s, and a replaced one ends after an overlap of %s", r.Host, cache, r.Rotate.Overlap)
		}
	}
	return nil
}

// document is what a kubelet is told, as it is now.
func document(path string) (disk.File[*kubelet.Config], *kubelet.Config, error) {
	file := disk.File[*kubelet.Config]{Path: path, Format: disk.Format[*kubelet.Config]{Parse: kubelet.ParseConfig}}
	// Others may read it as it is.
	if info, err := os.Stat(path); err == nil {
		file.Mode = info.Mode().Perm()
	}
	doc, err := file.Read()
	return file, doc, err
}

// programMode lets whoever runs the kubelet run the program.
const programMode = 0o755

// place puts the program at the path, as a link or a copy. It says whether that
// is a change; it makes it only if that was asked for. A file of someone else's
// is left alone.
func (n *nodeInstall) place(program, path string) (changed bool, err error) {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return false, disk.Problem(err, "inspect %s", path)
	case isFile(program, info):
		return false, nil
	case same(program, path) && (!n.copy || info.Mode()&fs.ModeSymlink == 0):
		return false, nil
	case info.Mode()&fs.ModeSymlink == 0 && !n.copy && n.write:
		return false, problem.New(problem.Busy, "move it away, or add --copy to replace it by a copy of this program", "%s is another file", path)
	}
	if !n.write {
		return true, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), disk.PrivateFolder); err != nil {
		return false, disk.Problem(err, "make folder %s", filepath.Dir(path))
	}
	if n.copy {
		content, err := os.ReadFile(program)
		if err != nil {
			return false, disk.Problem(err, "read %s", program)
		}
		if info != nil && info.Mode()&fs.ModeSymlink != 0 {
			if err := os.Remove(path); err != nil {
				return false, disk.Problem(err, "replace %s", path)
			}
		}
		return true, disk.WriteFile(path, content, programMode)
	}
	temp := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := os.Symlink(program, temp); err != nil {
		return false, disk.Problem(err, "link %s", path)
	}
	if err := os.Rename(temp, path); err != nil {
		_ = os.Remove(temp)
		return false, disk.Problem(err, "link %s", path)
	}
	return true, nil
}

// isFile says whether a path leads to that very file.
func isFile(path string, info fs.FileInfo) bool {
	other, err := os.Stat(path)
	return err == nil && os.SameFile(other, info)
}

// same says whether two paths lead to one file, or to the same content.
func same(a, b string) bool {
	aInfo, aErr := os.Stat(a)
	bInfo, bErr := os.Stat(b)
	if aErr != nil || bErr != nil {
		return false
	}
	if os.SameFile(aInfo, bInfo) {
		return true
	}
	if aInfo.Size() != bInfo.Size() {
		return false
	}
	aText, aErr := os.ReadFile(a)
	bText, bErr := os.ReadFile(b)
	return aErr == nil && bErr == nil && bytes.Equal(aText, bText)
}
