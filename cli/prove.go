package cli

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	dockercli "github.com/docker/cli/cli/config"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/regkeeper/regkeeper/app"
	"github.com/regkeeper/regkeeper/config"
	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/keeper"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/registry/builtin"
)

// demoRepository is the image that up pushes to its own registry.
const demoRepository = "regkeeper/hello"

// demoTokenLife bounds the token with which up pushes its image.
const demoTokenLife = 5 * time.Minute

// prove does the main job with the embedded registry, and shows at each step
// that it worked, by the same means that a client uses.
func (u *upRun) prove(ctx context.Context, c config.Config) error {
	host := c.Registries[0].Host
	file := c.Targets[0].File.Paths[0]
	image, err := name.ParseReference(string(host) + "/" + demoRepository + ":latest")
	if err != nil {
		return fmt.Errorf("name the image: %w", err)
	}
	if !u.json() {
		u.printf("embedded registry: %s (data in %s)\n", host, u.data.Folder)
	}
	pushed, err := u.pushImage(ctx, image)
	if err != nil {
		return err
	}
	if pushed {
		u.ok("pushed a private image, %s", image)
	}
	before, err := app.Status(ctx, c, u.data.Folder, u.options())
	if err != nil {
		return err
	}
	found := before.Registries[0].Credential
	first := found == ""
	if first {
		// Nobody but us has the first login: it need not stay for others.
		c.Registries = slices.Clone(c.Registries)
		c.Registries[0].Rotate.Overlap = 0
	} else {
		u.ok("found the login %s in force", found)
	}
	k, err := app.Keeper(c, u.data, nil)
	if err != nil {
		return err
	}
	result, err := k.Sync(ctx, keeper.Options{})
	if err != nil {
		return err
	}
	u.tell(result)
	old, err := u.provePull(ctx, image, file)
	if err != nil {
		return err
	}
	if err := refused(ctx, image, authn.Anonymous); err != nil {
		return fmt.Errorf("pull without a login: %w", err)
	}
	u.ok("without a login the pull is refused")
	if first {
		if result, err = k.Sync(ctx, keeper.Options{Rotate: []credential.Host{host}}); err != nil {
			return err
		}
		u.tell(result)
		if _, err := u.provePull(ctx, image, file); err != nil {
			return err
		}
		if err := refused(ctx, image, old); err != nil {
			return fmt.Errorf("pull with the login before: %w", err)
		}
		u.ok("the login before is refused")
	}
	u.nextSteps(host, file, image)
	return nil
}

func (u *upRun) ok(format string, args ...any) {
	if u.json() {
		u.printLine(upEvent{Event: "proved", Text: fmt.Sprintf(format, args...)})
		return
	}
	u.printf("  ok  "+format+"\n", args...)
}

// tell prints what a pass did.
func (u *upRun) tell(result keeper.Result) {
	for _, step := range result.Done {
		switch step.Action {
		case keeper.Mint:
			u.ok("minted and verified the login %s", step.Credential)
		case keeper.Verify:
			u.ok("verified the login %s, which was minted before", step.Credential)
		case keeper.Deliver:
			u.ok("delivered it to %s", step.Place)
		case keeper.Revoke:
			u.ok("revoked the login %s: no target holds it", step.Credential)
		}
	}
}

// provePull pulls the image with the login that the docker CLI's own reader
// finds in the file, every byte of it, and returns that login.
func (u *upRun) provePull(ctx context.Context, image name.Reference, file string) (authn.Authenticator, error) {
	document, err := dockercli.Load(filepath.Dir(file))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	found, err := document.GetAuthConfig(image.Context().RegistryStr())
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	login := &authn.Basic{Username: found.Username, Password: found.Password}
	pulled, err := remote.Image(image, remote.WithContext(ctx), remote.WithAuth(login))
	if err != nil {
		return nil, problem.Wrap(err, problem.Denied, "look at the registry's log above", "pull %s with %s", image, file)
	}
	layers, err := pulled.Layers()
	if err != nil {
		return nil, fmt.Errorf("pull %s: %w", image, err)
	}
	for _, layer := range layers {
		blob, err := layer.Compressed()
		if err != nil {
			return nil, fmt.Errorf("pull %s: %w", image, err)
		}
		_, err = io.Copy(io.Discard, blob)
		if err := errors.Join(err, blob.Close()); err != nil {
			return nil, fmt.Errorf("pull %s: %w", image, err)
		}
	}
	u.ok("pulled %s with that file", image)
	return login, nil
}

// refused returns an error unless the registry refuses the pull.
func refused(ctx context.Context, image name.Reference, login authn.Authenticator) error {
	_, err := remote.Head(image, remote.WithContext(ctx), remote.WithAuth(login))
	var answer *transport.Error
	if errors.As(err, &answer) && answer.StatusCode == http.StatusUnauthorized {
		return nil
	}
	if err == nil {
		return problem.New(problem.Internal, "report this", "the registry let it through")
	}
	return err
}

// pushImage builds a small image and pushes it, unless it is there. It uses a
// token of its own that is gone afterwards.
func (u *upRun) pushImage(ctx context.Context, image name.Reference) (pushed bool, err error) {
	if err := u.clearPushTokens(ctx); err != nil {
		return false, err
	}
	token, secret, err := u.data.Tokens.Create(ctx, builtin.TokenRequest{
		User: "regkeeper", Name: pushTokenPrefix + strings.ToLower(rand.Text()[:8]),
		Scopes:       credential.ScopesOf(credential.Pull, credential.Push),
		Repositories: []string{demoRepository}, Expires: time.Now().Add(demoTokenLife),
	})
	if err != nil {
		return false, err
	}
	defer func() {
		err = errors.Join(err, u.data.Tokens.Revoke(context.WithoutCancel(ctx), token.ID))
	}()
	options := []remote.Option{
		remote.WithContext(ctx), remote.WithAuth(&authn.Basic{Username: token.User, Password: secret.Reveal()}),
	}
	if _, err := remote.Head(image, options...); err == nil {
		return false, nil
	}
	built, err := demoImage()
	if err != nil {
		return false, fmt.Errorf("build the image: %w", err)
	}
	if err := remote.Write(image, built, options...); err != nil {
		return false, fmt.Errorf("push %s: %w", image, err)
	}
	return true, nil
}

// pushTokenPrefix begins the names of the tokens that up pushes its image with.
const pushTokenPrefix = "up-"

// clearPushTokens revokes those that a killed up left behind, once they have
// expired.
func (u *upRun) clearPushTokens(ctx context.Context) error {
	tokens, err := u.data.Tokens.List(ctx)
	if err != nil {
		return err
	}
	for _, t := range tokens {
		ours := strings.HasPrefix(t.Name, pushTokenPrefix) && slices.Equal(t.Repositories, []string{demoRepository})
		if ours && !t.Expires.IsZero() && t.Expires.Before(time.Now()) {
			if err := u.data.Tokens.Revoke(ctx, t.ID); err != nil {
				return err
			}
		}
	}
	return nil
}

// demoImage is an image with one text file in it.
func demoImage() (v1.Image, error) {
	const text = "This image is private: it was pulled with a login that regkeeper minted.\n"
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	if err := w.WriteHeader(&tar.Header{Name: "hello.txt", Mode: 0o644, Size: int64(len(text))}); err != nil {
		return nil, err
	}
	if _, err := io.WriteString(w, text); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	blob, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(layer.Bytes())), nil
	})
	if err != nil {
		return nil, err
	}
	return mutate.AppendLayers(empty.Image, blob)
}

func (u *upRun) nextSteps(host credential.Host, file string, image name.Reference) {
	if u.json() {
		return
	}
	data := ""
	if u.dataPath != "" {
		data = " --data " + u.dataPath
	}
	u.printf(`
What now, in another terminal:
  see how it stands    %[5]s status%[4]s
  pull with the file   docker --config %[2]s pull %[3]s
  push images          %[5]s registry token create --name me --scope pull,push%[4]s
                       docker login %[1]s --username regkeeper     (paste the token)
                       docker push %[1]s/team/app:1
  log a runner in      set DOCKER_CONFIG=%[2]s for the runner, or write a
                       regkeeper.yaml with a file target at the runner's ~/.docker/config.json
  keep a forge's login write a regkeeper.yaml as the README shows, and run %[5]s up

`, host, filepath.Dir(file), image, data, self())
}

// self is how the program is called again. One that go run built is gone when
// it ends.
func self() string {
	path, err := os.Executable()
	if err == nil && strings.Contains(path, string(filepath.Separator)+"go-build") {
		return "go run ./cmd/regkeeper"
	}
	return "regkeeper"
}
