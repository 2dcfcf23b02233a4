package cli_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// builds pushes signed images of two platforms to a repository, as a pipeline
// would that ran once an hour: tags b0, b1 ... The login is the docker CLI's.
func builds() {
	count, err := strconv.Atoi(os.Args[2])
	for n := range count {
		if err == nil {
			err = pushBuild(os.Args[1], n)
		}
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func pushBuild(repository string, n int) error {
	tag, err := name.NewTag(fmt.Sprintf("%s:b%d", repository, n))
	if err != nil {
		return err
	}
	built := time.Date(2026, 3, 1, n, 0, 0, 0, time.UTC)
	index := v1.ImageIndex(empty.Index)
	for _, architecture := range []string{"amd64", "arm64"} {
		image, err := build(architecture, n, built)
		if err != nil {
			return err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: architecture}},
		})
	}
	login := remote.WithAuthFromKeychain(authn.DefaultKeychain)
	if err := remote.WriteIndex(tag, index, login); err != nil {
		return err
	}
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	signature, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1),
		static.NewLayer([]byte("signature of "+digest.String()), "application/vnd.dev.cosign.simplesigning.v1+json"))
	if err != nil {
		return err
	}
	return remote.Write(tag.Context().Tag(strings.Replace(digest.String(), ":", "-", 1)+".sig"), signature, login)
}

func build(architecture string, n int, built time.Time) (v1.Image, error) {
	image := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	image = mutate.ConfigMediaType(image, types.OCIConfigJSON)
	image, err := mutate.AppendLayers(image,
		static.NewLayer([]byte(strings.Repeat("base ", 1000)), types.OCILayer),
		static.NewLayer([]byte(fmt.Sprintf("%s build %d", architecture, n)), types.OCILayer))
	if err != nil {
		return nil, err
	}
	image, err = mutate.ConfigFile(image, &v1.ConfigFile{OS: "linux", Architecture: architecture, RootFS: v1.RootFS{Type: "layers"}})
	if err != nil {
		return nil, err
	}
	return mutate.CreatedAt(image, v1.Time{Time: built})
}
