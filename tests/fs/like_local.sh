# Run twice by fs/like_local.rs: in an empty directory of the mount and in one of the lower file system itself. What it
# prints must be the same. $1 is the part to run.
other() { setpriv --reuid 65534 --regid 65534 --clear-groups "$@"; }
member() { setpriv --reuid 1234 --regid 65534 --groups 4321 "$@"; }
show() { stat -c '%n %A %u %g %s %h %F' "$@"; }
acl() { getfacl -cnp "$@" 2>&1; }
tried() { "$@" >/dev/null 2>"$said" && echo "$1: ok" || echo "$1: $(sed 's/.*: //' "$said" | head -1)"; }
said=$2
umask 022

inheritance() {
    mkdir d && chmod 777 d
    setfacl -m u:1234:rwx,g:4321:rx,d:u:1234:rw,d:g:4321:x,d:m:rwx d
    (umask 077; touch d/file; mkdir d/sub; mkfifo d/fifo; ln -s target d/link; mkdir -m 700 d/private)
    (umask 027; other touch d/theirs; other mkdir d/their_dir)
    for name in d d/file d/sub d/fifo d/private d/theirs d/their_dir; do echo "# $name"; show $name; acl $name; done
    show d/link
    (umask 077; python3 -c '
import os
fd = os.open("d/open", os.O_CREAT | os.O_WRONLY, 0o666)
os.close(fd)
os.mknod("d/node", 0o666)')
    for name in d/open d/node; do echo "# $name"; show $name; acl $name; done
    mkdir d/sub/below; acl d/sub/below
    setfacl -k d; (umask 077; touch d/after); show d/after; acl d/after
    mkdir plain; (umask 027; touch plain/file; mkdir plain/sub); show plain/file plain/sub
}

sync_with_mode() {
    touch f; setfacl -m u:1234:rwx,m:rx f; show f; acl f
    chmod 640 f; show f; acl f
    chmod g+w f; acl f
    setfacl -m u::rwx,o:x f; show f; acl f
    setfacl -b f; show f; acl f
    setfacl -m u:1234:r f; chown 65534:65534 f; acl f
    tried other setfacl -m u:4321:r f; acl f
    chown 0 f; tried other setfacl -m u:4321:rw f
    mkdir d; tried setfacl -m d:u:1234:rwx d; chmod 700 d; acl d
    ln f hard; acl hard; setfacl -x u:1234 hard; acl f
    # What an ACL grants is granted, what it denies is denied.
    echo content >g; chmod 600 g; setfacl -m u:65534:r g
    tried other cat g; tried other sh -c 'echo x >>g'
}

setgid_directories() {
    mkdir d; chown 0:4321 d; chmod 2777 d
    touch d/file; mkdir d/sub; ln -s x d/link; mkfifo d/fifo
    other touch d/theirs; other mkdir d/their_dir; show d/*
    setfacl -m d:u:1234:rwx d; mkdir d/with_acl; touch d/file_acl; show d/with_acl d/file_acl; acl d/with_acl
    # A group that the maker is not in takes the bit of a program away.
    other sh -c 'umask 0; cp /bin/true d/program; chmod 2755 d/program'; show d/program
    member sh -c 'umask 0; cp /bin/true d/allowed; chmod 2755 d/allowed'; show d/allowed
    python3 -c '
import os
os.umask(0)
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
os.close(os.open("d/made", os.O_CREAT | os.O_WRONLY, 0o2775))
os.close(os.open("d/made_rw", os.O_CREAT | os.O_WRONLY, 0o2664))
os.mkdir("d/made_dir", 0o2777)'; show d/made d/made_rw d/made_dir
}

set_id_bits() {
    set -- "echo x >>f" "truncate -s 3 f" "truncate -s 30000 f" "fallocate -l 9000 f" "fallocate -n -l 90000 f" \
        "fallocate -p -o 0 -l 4096 f" "fallocate -z -o 0 -l 4096 f" "xfs_io -c 'copy_range -l 5 source' f" \
        "dd if=/dev/zero of=f bs=4096 count=1 conv=notrunc oflag=direct status=none" \
        "echo x >f" "python3 -c 'import mmap; f=open(\"f\",\"r+b\"); m=mmap.mmap(f.fileno(),5); m[0]=1; m.flush()'"
    for who in other eval; do
        for way in "$@"; do
            for mode in 6777 6767 2707; do
                rm -f f; head -c 20000 /dev/zero >f; echo source >source
                chown 0:0 f; chmod $mode f
                if [ $who = other ]; then other sh -c "$way" 2>/dev/null; else eval "$way"; fi
                echo "$who $mode $way: $(stat -c %a f)"
            done
        done
    done
    rm -f f; echo x >f; chmod 6777 f; chown 1234 f; show f; chmod 6777 f; chown :4321 f; show f
    chmod 2767 f; chown 0 f; show f
    mkdir d; chmod 6777 d; chown 1234:4321 d; show d
    chown 65534:4321 f; other chmod 2755 f; show f; chown 1234:4321 f; member chmod 2755 f; show f
    chown 65534:4321 d; other chmod 2755 d; show d
}

capabilities() {
    value=0x0100000202000000000000000000000000000000
    set -- "echo x >>f" "truncate -s 3 f" "chown 1234 f" "chmod 700 f" "fallocate -l 9000 f" "echo x >f" "mv f g; mv g f"
    for way in "$@"; do
        rm -f f; cp /bin/true f
        setfattr -n security.capability -v $value f || { echo refused; break; }
        eval "$way"
        echo "$way: $(getfattr -h -n security.capability -e hex f 2>&1 | grep -c $value)"
    done
}

sticky() {
    mkdir d; chmod 1777 d; touch d/f; chown 1234 d/f; mkdir d/s
    tried other rm d/f; tried other mv d/f d/g; tried other rmdir d/s; tried other touch d/mine; tried other rm d/mine
    tried other ln d/f d/l
}

modes() {
    umask 0
    for mode in 0151 0000 0700 1777 2755 0311; do mkdir -m $mode d$mode; show d$mode; done
    python3 -c '
import os
for mode in (0o151, 0o0, 0o1777, 0o311): os.mkdir("p%o" % mode, mode)'
    show p*
}

$1
